"""`python -m harness teacher-outputs STUDY`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from harness.cache import cache_folder, cache_in_use
from harness.commands.arguments import add_study
from harness.errors import UserError
from harness.plan.plan import load_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--to", metavar="FOLDER", help="where the files go; it must not exist (default: in the study's results)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the study's teachers, unless the cache has them, and write their outputs: no student is trained.

    Raises UserError for a folder that exists and for a teacher that cannot be made.
    """
    import yaml

    from harness.teachers.export_outputs import export_outputs
    from harness.teachers.prepare import prepare
    from harness.watching.console import Console
    from harness.whole_folder import whole_folder

    plan = load_plan(arguments.study, arguments.overrides)
    folder = Path(arguments.to) if arguments.to else Path(plan.study.results) / plan.study.name / "teacher_outputs"
    if folder.exists():
        raise UserError(f"{folder} exists; remove it, or give another folder with --to")
    cache = cache_folder()
    with cache_in_use(cache):
        prepared = prepare(plan, cache, Console())
        with whole_folder(folder) as unfinished:
            written = export_outputs(plan, prepared, cache, unfinished)
    beside = Path(os.path.relpath(folder.resolve(), plan.base))
    entries = [
        {"name": name, "outputs": {task: {k: str(beside / v) for k, v in files.items()} for task, files in tasks.items()}}
        for name, tasks in written.items()
    ]
    print(f"{folder}: logits of {', '.join(written) or 'no teacher'}. In a study beside {arguments.study}, they are:")
    print(yaml.safe_dump({"teachers": entries}, sort_keys=False).rstrip())
    return 0
