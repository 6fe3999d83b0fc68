"""`python -m harness doctor`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from harness.cache import cache_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="*", help="result folders whose sizes to show")


def run(arguments: argparse.Namespace) -> int:
    """Print what would be asked for in a report of a problem."""
    from harness.manifest import git_state, hardware, package_versions

    for name, version in package_versions().items():
        print(f"{name:14} {version}")
    git = git_state()
    print(f"{'checkout':14} {'none' if git is None else git['commit'][:12] + (' with changes' if git['dirty'] else '')}")
    for name, value in hardware().items():
        print(f"{name:14} {value or 'none'}")
    cache = cache_folder()
    print(f"{'cache':14} {_size(cache)} in {cache}")
    for part in ("data", "tokens", "teachers"):
        print(f"{'':14} {_size(cache / part)} {part}")
    for results in arguments.results:
        print(f"{'results':14} {_size(Path(results))} in {results}")
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    print(f"{'free disk':14} {shutil.disk_usage(existing).free / 2**30:.1f} GiB beside the cache")
    return 0


def _size(folder: Path) -> str:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return f"{total / 2**20:8.1f} MiB"
