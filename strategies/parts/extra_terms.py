"""Settings of the strategies that weigh any list of loss terms."""

from __future__ import annotations

from pydantic import field_validator

from strategies.base import Settings


class TermSettings(Settings):
    extra_terms: tuple[str, ...] = ()
    """Loss terms to weigh beside ce and kd, with their default options (`python -m harness list terms`)."""

    @field_validator("extra_terms")
    @classmethod
    def _one_row(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if rows := [name for name in value if name.endswith("_each")]:
            raise ValueError(f"{rows[0]} has a row for each teacher or part, and terms with one row are wanted")
        return value

    @property
    def terms(self) -> tuple[str, ...]:
        """All terms, in order."""
        return ("ce", "kd", *self.extra_terms)
