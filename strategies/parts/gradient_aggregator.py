"""Weights from the terms' gradients, by the aggregators of the library torchjd (the optional extra `gradients`)."""

from __future__ import annotations

from abc import abstractmethod
from importlib.util import find_spec
from typing import Any, ClassVar, TypeVar

from strategies.base import Context, Needs, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.extra_terms import TermSettings

S = TypeVar("S", bound=TermSettings)


class GradientAggregator(Strategy[S]):
    """w = weighting(Gramian of the gradients of the terms' batch means): the weighted gradient is the aggregated one."""

    packages: ClassVar[tuple[str, ...]] = ("torchjd",)
    """Modules that must be importable."""
    Settings = TermSettings

    def __init__(self, settings: S, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.weighting = self.make_weighting()

    @abstractmethod
    def make_weighting(self) -> Any:
        """An instance of a torchjd Weighting that takes a Gramian [terms, terms] and returns weights [terms]."""

    @classmethod
    def refuses(cls, settings: S, classes: int) -> str | None:
        missing = [package for package in cls.packages if find_spec(package) is None]
        if not missing:
            return None
        return (
            f"{cls.name} needs the package{'s' if len(missing) > 1 else ''} {', '.join(missing)}, not installed here. "
            'Install the extra `gradients`: python -m pip install -e ".[gradients]"'
        )

    @classmethod
    def needs(cls, settings: S) -> Needs:
        return Needs(terms=settings.terms, teachers=(1, None), term_gramian=True)

    def weights(self, context: Context) -> Weights:
        assert context.term_gramian is not None
        gramian = context.term_gramian()
        size = gramian.trace()
        if size <= 0:  # every gradient is zero: any weights will do
            return dict.fromkeys(context.terms, 1.0 / len(context.terms))
        # its scale has no say in the weights, but torchjd takes a Gramian whose trace is below 1e-4 for zeros
        weights = self._on_own_generator(context, self.prepare(context, gramian / size))
        return dict(zip(context.terms, weights, strict=True))

    def prepare(self, context: Context, gramian: torch.Tensor) -> torch.Tensor:
        """The Gramian that the weighting is to see."""
        return gramian

    def _on_own_generator(self, context: Context, gramian: torch.Tensor) -> torch.Tensor:
        # torchjd draws from torch's global CPU generator (PCGrad's order): lend it ours, and give the global state back
        seed = int(torch.randint(2**31, (), generator=context.generator))
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            weights: torch.Tensor = self.weighting(gramian)
        finally:
            torch.set_rng_state(state)
        return weights
