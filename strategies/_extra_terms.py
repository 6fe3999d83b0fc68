"""Settings of the strategies that weigh any list of loss terms."""

from __future__ import annotations

from strategies.base import Settings


class TermSettings(Settings):
    extra_terms: tuple[str, ...] = ()
    """Loss terms to weigh beside ce and kd, with their default options: layer_kd, relational_kd, word_kd, part_kd, noisy_kd."""

    @property
    def terms(self) -> tuple[str, ...]:
        """All terms, in order."""
        return ("ce", "kd", *self.extra_terms)
