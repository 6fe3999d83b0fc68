"""`python -m harness reproduce RESULTS ROW`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cache import cache_folder, cache_in_use
from harness.errors import StoreError
from harness.plan.plan import make_plan
from harness.study.schema import PROTOCOL_VERSION, Study
from harness.training.hooks import StoppedEarly
from harness.watching.console import Console

if TYPE_CHECKING:
    from harness.records import EpochRecord, TrialRecord
    from harness.report.rows import Reproduced

DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="a result folder, e.g. results/glue_minilm")
    parser.add_argument("row", help="a trial's key, TASK/STRATEGY/REPEAT or TASK/STRATEGY/REPEAT/TRIAL")
    parser.add_argument("--data", metavar="FOLDER", help="the folder with the data, where it is not where the study says")
    parser.add_argument("--tolerance", type=float, default=0.0, help="differences up to this count as the same")


def run(arguments: argparse.Namespace) -> int:
    """Train one row again, in this process; exit code 1 where the number does not come out the same.

    A trial that its search stopped early is trained up to the same epoch. One that failed is to fail again with the same error.
    """
    from harness.report.rows import find_record
    from harness.store.store import Store

    results = Path(arguments.results)
    stored = find_record(results, arguments.row)
    spec = stored.spec
    store = Store(results)
    manifest = store.manifest()
    commit = (manifest.get("git") or {}).get("commit", "unknown")
    if spec.protocol_version != PROTOCOL_VERSION:
        raise StoreError(
            f"{results}: the row was made under Protocol {spec.protocol_version}, and this version of the harness has Protocol "
            f"{PROTOCOL_VERSION}: the number would not be comparable. The commit that made it: {commit}"
        )
    data = spec.data.model_copy(update={"path": arguments.data}) if arguments.data else spec.data
    study = Study.model_validate(manifest["study"])
    resources = study.resources.model_copy(update={"per_task": {}})
    models = study.models.model_copy(update={"teachers": [one.for_task(spec.task.name) for one in study.models.teachers]})
    own = {"data": data, "data_per_task": {}, "tasks": [spec.task], "training_per_task": {}, "resources": resources}
    own["models"] = models
    study = study.model_copy(update=own)
    cache = cache_folder()
    with cache_in_use(cache):
        found = _again(stored, study, _base(manifest), cache, arguments.tolerance)
    print(found.text)
    if not found.same:
        print(f"The harness may have changed since, which was commit {commit}, or the processor.")
    return 0 if found.same else DIFFERENT


def _base(manifest: Mapping[str, Any]) -> Path:
    """Where the study's relative paths start: the folder of its file, if the command that is stored still finds it there."""
    command = manifest.get("command", [])  # python -m harness.run STUDY ...
    file = Path(command[3] if len(command) > 3 else "")
    return file.resolve().parent if file.is_file() else Path.cwd()


def _again(stored: TrialRecord, study: Study, base: Path, cache: Path, tolerance: float) -> Reproduced:
    from harness.report.rows import compare_runs
    from harness.teachers.prepare import prepare
    from harness.training.failures import classify, failed_record
    from harness.training.trial import train_trial
    from strategies import resolve

    def stop_where_it_was_stopped(epoch: EpochRecord, _: Any) -> None:
        if epoch.epoch + 1 == stored.stopped_after_epoch:
            raise StoppedEarly

    spec = stored.spec
    ready = prepare(make_plan(study, base), cache, Console())[spec.task.name]
    teachers = [ready.teacher_digests[teacher.name] for teacher in spec.teachers]
    for what, now, before in (
        ("rows", ready.data_digest, spec.data_digest),
        ("student's weights", ready.student_digest, spec.student_digest),
        ("teachers", teachers, spec.teacher_digests),
    ):
        if now != before:
            raise StoreError(f"the {what} of {spec.task.name} are not those of the stored run: digest {now}, stored {before}")
    # where it has changed since, the comparison says so
    spec = spec.model_copy(update={"strategy_code": resolve(spec.strategy).code_digest})
    try:
        again = train_trial(spec, cache, on_epoch=stop_where_it_was_stopped).record
    except Exception as error:  # what was stored may be a failure, too; the comparison says it
        again = failed_record(spec, classify(error), ready.majority)
    return compare_runs(stored, again, tolerance)
