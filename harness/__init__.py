"""A Ray-based benchmark of loss-weighting strategies for knowledge distillation."""

import os
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

# Large pages for PyTorch's large CPU tensors (Linux): without them an eighth of a small student's step goes into page faults
# for the word embeddings' gradient. PyTorch reads it once, at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _refuse_other_strategies() -> None:
    """The name of the other package of this project is a common one; a folder of somebody's may be found before it."""
    expected, found = Path(__file__).resolve().parent.parent / "strategies" / "__init__.py", find_spec("strategies")
    if found is None or found.origin is None:
        raise ImportError(f"the package `strategies`, which belongs to `harness`, is not there; it is expected in {expected}")
    if Path(found.origin).resolve() != expected:
        raise ImportError(
            f"`import strategies` finds {found.origin}, which hides the package of this project ({expected}). Rename that "
            "folder, or start elsewhere"
        )


_refuse_other_strategies()
