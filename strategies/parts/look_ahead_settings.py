"""What every strategy that looks ahead lets its user set."""

from __future__ import annotations

from strategies.base import LookAheadChoice, Settings


class LookAheadSettings(Settings):
    engine: LookAheadChoice = "auto"
    """How the look-ahead is computed, the same numbers up to rounding. fd: finite difference; jvp: forward-mode
    differentiation; exact: literal double backward; auto: fd, or jvp where the training is in half precision."""
