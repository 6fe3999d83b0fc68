"""`torch`, imported at its first use.

`python -m harness list` and `plan` read every strategy's declaration. Importing torch for that would cost seconds,
so the built-in strategies write `from strategies.lazy import torch`. A plugin may simply `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _LazyTorch:
        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("torch"), name)

    torch = _LazyTorch()
