"""The loss terms of one strategy, made for one training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.loss_terms.base import LossTerm, TermSetup
from harness.loss_terms.logit_terms import TermInputs, compute_terms
from harness.loss_terms.registry import needs_of_terms, registered_terms, term_options
from harness.ranks import Ranks
from strategies.base import Needs


class LossTerms:
    """Called with the inputs of a batch, gives name -> term in the order of `needs.terms`."""

    def __init__(self, needs: Needs, setup: TermSetup | None = None) -> None:
        """`setup` may be None where all terms are plain functions. Raises TermError, and ValueError where it is missing."""
        self.names = needs.terms
        self.options = needs.term_options
        self.needs = needs_of_terms(needs)
        self._made: dict[str, LossTerm[Any]] = {}
        for name in needs.terms:
            if name not in registered_terms():
                continue
            if setup is None:
                raise ValueError(f"the loss term {name!r} is made for a training, and none is given")
            self._made[name] = registered_terms()[name](term_options(name, needs.term_options.get(name, {})), setup)
        modules = {name: term.module for name, term in self._made.items() if term.module is not None}
        self.module = nn.ModuleDict({name: module.to(setup.device) for name, module in modules.items() if setup is not None})

    def __call__(self, inputs: TermInputs) -> dict[str, Tensor]:
        found = {}
        for name in self.names:
            made = self._made.get(name)
            found[name] = made(inputs) if made is not None else compute_terms([name], inputs, self.options)[name]
        return found

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the student's optimiser; `scale` multiplies its learning rate. Empty where no term has parameters."""
        return [
            {"params": parameters, "weight_decay": 0.0, "scale": self._made[name].learning_rate_scale}
            for name, module in self.module.items()
            if (parameters := list(module.parameters()))
        ]

    def agree(self, ranks: Ranks) -> None:
        """Give all ranks the first one's parameters and buffers."""
        if ranks.world == 1 or not self.module:
            return
        with torch.no_grad():
            tensors = list(self.module.state_dict().values())
            if ranks.rank > 0:
                for tensor in tensors:
                    tensor.zero_()
            ranks.sum_(tensors)

    def reduce_gradients(self, ranks: Ranks, clip_norm: float) -> None:
        """Average the parameters' gradients over ranks, as DDP does with the student's, and clip their norm."""
        parameters = self.parameters
        if not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        ranks.sum_(gradients)
        if ranks.world > 1:
            torch._foreach_div_(gradients, float(ranks.world))
        nn.utils.clip_grad_norm_(parameters, clip_norm)

    def state_dict(self) -> Mapping[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state)
