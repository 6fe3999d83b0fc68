"""What every strategy that looks ahead lets its user set."""

from __future__ import annotations

from typing import Any

from strategies.base import LookAheadChoice, LookAheadStep, Settings


class LookAheadSettings(Settings):
    engine: LookAheadChoice = "auto"
    """How the look-ahead is computed, the same numbers up to rounding. fd: finite difference; jvp: forward-mode
    differentiation; exact: literal double backward; auto: the one that is fastest on such a device in such a precision, from a
    table, so that it is the same in every run. `plan` and a trial's record say which."""
    look_ahead: LookAheadStep = "sgd"
    """The student's step that is looked ahead of. sgd: a plain gradient step. adamw: the step that its AdamW takes, with
    moments, decay and clipping, and the influences led back through it. adamw_point: the same step, and the influences of where
    it ends, as LGTM has them. The last two take a forward and a backward pass more."""

    @property
    def step_options(self) -> dict[str, Any]:
        """For `Needs.look_ahead_options`."""
        return {} if self.look_ahead == "sgd" else {"step": self.look_ahead}
