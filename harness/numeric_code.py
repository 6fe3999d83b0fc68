"""The digest of the harness's own code that makes numbers, as this process loaded it.

A trial's key names its strategy's code, its parts from `strategies.parts` included. What all trials share is named here:
another form of it would make other numbers under the same keys.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from strategies.code import effective_lines

ROOMS = ("data", "look_ahead", "loss_terms", "models", "training")
GROUND = ("ranks.py", "seeds.py")
WITHOUT = frozenset(
    # where rows and weights come from: their own digests say what they are
    {f"data/{name}.py" for name in ("columns", "directory", "files", "generated", "graded", "grammars", "hub", "output_files")}
    | {f"data/{name}.py" for name in ("roles", "source", "tables")}
    | {f"models/{name}.py" for name in ("check", "quiet", "save", "sources")}
    # what is said and kept of a training
    | {f"training/{name}.py" for name in ("checkpoint", "failures", "hooks", "peak_memory", "sign_of_life")}
)
"""Files that make no number."""


def _read() -> dict[str, str]:
    root = Path(__file__).parent
    files = [root / name for name in GROUND] + [file for room in ROOMS for file in (root / room).rglob("*.py")]
    names = {file.relative_to(root).as_posix(): file for file in files}
    return {name: file.read_text("utf-8") for name, file in names.items() if name not in WITHOUT}


_loaded = _read()
"""At import, beside the modules themselves: a file that is edited while a study runs is not what runs."""


@cache
def numeric_code() -> str:
    """16 hex digits. Docstrings, comments, imports, the texts of errors, and the names of files do not count."""
    texts = sorted(
        "\n".join(effective_lines(text, without=(ast.Import, ast.ImportFrom, ast.Raise))) for text in _loaded.values()
    )
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
