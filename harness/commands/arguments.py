"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import StoreError
from harness.study.schema_errors import nearest


def add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a study file, e.g. studies/quickstart.yaml")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change a value of the study (YAML), e.g. training.epochs=2 or strategies.wsl.settings.kd_weight=1.5, or append "
        "to a list: strategies+=wsl; repeatable",
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="a result folder, e.g. results/quickstart")


def results_folder(given: str) -> Path:
    """The folder, if it is one of results. Raises StoreError with the nearest one."""
    folder = Path(given)
    if is_results(folder):
        return folder
    parent = folder.parent if folder.parent.is_dir() else Path()
    known = sorted(path.parent.name for path in parent.glob("*/manifest.json"))
    what = "is no result folder (no manifest.json in it)" if folder.exists() else "does not exist"
    listed = f" Result folders in {parent}: {', '.join(known)}" if known else ""
    raise StoreError(f"{given} {what}.{nearest(folder.name, known)}{listed}")


def is_results(folder: Path) -> bool:
    """Whether a study was run there, if only to its beginning."""
    return (folder / "manifest.json").is_file() or any((folder / name).exists() for name in ("trials", "events.jsonl", "pack"))


def at_least_two(text: str) -> int:
    """A whole number of 2 or more, for argparse."""
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text} is not 2 or more: one tells no spread")
    return value


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
