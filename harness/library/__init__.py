"""One strategy in a training of your own: in a plain PyTorch loop, or in transformers' `Trainer`. See README.md beside this.

The loss is a study's: the same code computes it (`harness.training.weighting`). Nothing here needs Ray, Optuna or matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.library.loss import StrategyLoss
from harness.library.rows import rows_from_features

if TYPE_CHECKING:
    from harness.library.trainer import StrategyTrainer

__all__ = ["StrategyLoss", "StrategyTrainer", "rows_from_features"]


def __getattr__(name: str) -> Any:
    """`StrategyTrainer` alone needs `accelerate`: nobody else has to install it."""
    if name != "StrategyTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "StrategyTrainer is transformers' Trainer, which needs the package accelerate: "
            "pip install 'kd-weighting-harness[trainer]'"
        ) from error
    from harness.library.trainer import StrategyTrainer

    return StrategyTrainer
