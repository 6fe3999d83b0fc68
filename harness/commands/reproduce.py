"""`python -m harness reproduce RESULTS ROW`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_folder, cache_in_use
from harness.console import Console
from harness.errors import StoreError
from harness.plan import make_plan
from harness.study import Study

if TYPE_CHECKING:
    from harness.records import TrialRecord
    from harness.report.rows import Reproduced

DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="a result folder, e.g. results/glue_minilm")
    parser.add_argument("row", help="a trial's key, TASK/STRATEGY/REPEAT or TASK/STRATEGY/REPEAT/TRIAL")
    parser.add_argument("--data", metavar="FOLDER", help="the folder with the data, where it is not where the study says")
    parser.add_argument("--tolerance", type=float, default=0.0, help="differences up to this count as the same")


def run(arguments: argparse.Namespace) -> int:
    """Train one row again, in this process; exit code 1 where the number does not come out the same."""
    from harness.report.rows import find_record
    from harness.store import Store

    results = Path(arguments.results)
    stored = find_record(results, arguments.row)
    spec = stored.spec
    data = spec.data.model_copy(update={"path": arguments.data}) if arguments.data else spec.data
    study = Study.model_validate(Store(results).manifest()["study"])
    resources = study.resources.model_copy(update={"per_task": {}})
    study = study.model_copy(update={"data": data, "tasks": [spec.task], "training_per_task": {}, "resources": resources})
    cache = cache_folder()
    with cache_in_use(cache):
        found = _again(stored, study, cache, arguments.tolerance)
    print(found.text)
    return 0 if found.same else DIFFERENT


def _again(stored: TrialRecord, study: Study, cache: Path, tolerance: float) -> Reproduced:
    from harness.prepare import prepare
    from harness.report.rows import compare_runs
    from harness.trial import train_trial

    spec = stored.spec
    ready = prepare(make_plan(study, Path.cwd()), cache, Console())[spec.task.name]
    teachers = [ready.teacher_digests[teacher.name] for teacher in spec.teachers]
    for what, now, before in (
        ("rows", ready.data_digest, spec.data_digest),
        ("student's weights", ready.student_digest, spec.student_digest),
        ("teachers", teachers, spec.teacher_digests),
    ):
        if now != before:
            raise StoreError(f"the {what} of {spec.task.name} are not those of the stored run: digest {now}, stored {before}")
    return compare_runs(stored, train_trial(spec, cache).record, tolerance)
