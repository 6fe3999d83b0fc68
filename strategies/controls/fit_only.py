"""Control: a strategy that is given no more labels to train on than one with a meta set."""

from __future__ import annotations

from dataclasses import replace

from strategies.base import Needs
from strategies.registry import Wrapper, register_wrapper


@register_wrapper
class FitOnly(Wrapper):
    """Trains on `fit` alone, also where the label budget adds the meta rows for strategies that need none.

    `fit_only(fixed_alpha)` tells apart what a meta set costs (labels that the student does not train on) from what its use
    brings. Around a strategy that has a meta set it would change nothing, and is refused.
    """

    name = "fit_only"
    family = "control"
    summary = "the strategy without the meta rows among its training rows"
    paper = "control"

    @classmethod
    def needs_after(cls, needs: Needs) -> Needs:
        return replace(needs, fit_only=True)

    @classmethod
    def refuses_around(cls, needs: Needs) -> str | None:
        return "it has a meta set, on which it does not train: leave out fit_only(...)" if needs.needs_meta_set else None
