"""Search spaces: what a sweep may try for one hyper-parameter."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = bool | int | float | str


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FloatRange(_Range):
    """All reals in [low, high], on a logarithmic scale if `log`."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        return _check_bounds(self)


class IntRange(_Range):
    """All integers in [low, high], on a logarithmic scale if `log`."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        return _check_bounds(self)


class Choice(_Range):
    """One of the listed values."""

    type: Literal["choice"] = "choice"
    values: list[Value] = Field(min_length=1)


_Bounded = TypeVar("_Bounded", FloatRange, IntRange)
Range = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


def _check_bounds(space: _Bounded) -> _Bounded:
    if space.low > space.high:
        raise ValueError(f"low ({space.low}) is above high ({space.high})")
    if space.log and space.low <= 0:
        raise ValueError(f"a logarithmic range needs low > 0, got {space.low}")
    return space
