"""Loss terms that need more than logits and labels, one a file. See `base` for the contract."""

from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions, TermSetup
from harness.loss_terms.registry import TermError, needs_of_terms, register_term

__all__ = ["LossTerm", "TermError", "TermNeeds", "TermOptions", "TermSetup", "needs_of_terms", "register_term"]
