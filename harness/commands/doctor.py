"""`python -m harness doctor`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from harness.cache import cache_folder
from harness.commands.arguments import results_folder
from harness.store.garbage import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="*", help="result folders whose sizes to show; by default those in results/")


def run(arguments: argparse.Namespace) -> int:
    """Print what a report of a problem should say: versions, machine, sizes, free disk."""
    from tabulate import tabulate

    from harness import __version__
    from harness.commands.manifest import git_state, hardware, package_versions
    from harness.commands.memory_probe import known_needs
    from harness.training.nvidia_smi import how_gpus_are_shared

    git = git_state()
    checkout = "none" if git is None else git["commit"][:12] + (" with changes" if git["dirty"] else "")
    rows = [("harness", __version__), ("checkout", checkout), *package_versions().items()]
    rows += [(name, _shown(value)) for name, value in hardware().items()]
    if shared := how_gpus_are_shared():
        rows.append(("GPUs are shared", shared))
    cache = cache_folder()
    rows.append(("cache", f"{_size(cache)} in {cache}"))
    rows += [(f"  {part.name}", _size(part)) for part in sorted(cache.glob("*")) if part.is_dir()]
    rows += [
        (f"    {need.of or 'a trial'}", f"{need.peak_bytes / 2**30:.2f} GiB on {need.device}") for need in known_needs(cache)
    ]
    folders = [results_folder(given) for given in arguments.results]
    for folder in folders or sorted(path.parent for path in Path("results").glob("*/manifest.json")):
        rows.append((f"{folder}", _size(folder)))
    for name, path in (("here", Path.cwd()), ("cache", cache)):
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        rows.append((f"free disk, {name}", f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB"))
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    return 0


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _size(folder: Path) -> str:
    return f"{size(folder) / 2**20:,.1f} MiB"
