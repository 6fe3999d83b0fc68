"""Where data, tokens and teachers are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$HARNESS_CACHE`, or `kd-weighting-harness` in the user's cache folder; absolute."""
    given = os.environ.get("HARNESS_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().resolve() / "kd-weighting-harness"
