"""A stored row, made ready to be trained again: for `reproduce` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from harness.errors import StoreError
from harness.plan.plan import make_plan
from harness.study.data import DataSpec
from harness.study.schema import PROTOCOL_VERSION, Study
from harness.watching.console import Console

if TYPE_CHECKING:
    from harness.plan.prepared import PreparedTask
    from harness.records import TrialRecord, TrialSpec
    from harness.store.store import Store


def add_row(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="a result folder, e.g. results/glue_minilm")
    parser.add_argument(
        "row",
        help="a trial's key, TASK/STRATEGY/REPEAT, TASK/STRATEGY/REPEAT/TRIAL, or TASK/STRATEGY/best: the repeat that is best "
        "on the selection rows",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER", help="the folder with the data, where it is not where the study says")
    parser.add_argument("--trust-plugin", action="store_true", help="run a plugin's Python file that lies in the result folder")


def commit_of(store: Store) -> str:
    """The commit of the harness that made the results."""
    return str((store.manifest().get("git") or {}).get("commit", "unknown"))


def prepare_again(stored: TrialRecord, store: Store, cache: Path, arguments: argparse.Namespace) -> PreparedTask:
    """Put the row's data and teachers into `cache`, which the caller holds.

    Raises StoreError where they are not those of the stored run, for another protocol's row, and for a plugin within the
    result folder, which may come from anybody, unless `--trust-plugin` is given.
    """
    from harness.teachers.prepare import prepare

    spec = stored.spec
    if spec.protocol_version != PROTOCOL_VERSION:
        raise StoreError(
            f"{store.path}: the row was made under Protocol {spec.protocol_version}, and this version of the harness has "
            f"Protocol {PROTOCOL_VERSION}: the number would not be comparable. The commit that made it: {commit_of(store)}"
        )
    try:
        study = Study.model_validate(store.manifest()["study"])
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"{store.path}: its manifest.json holds no study that this version of the harness takes ({error}). The commit that "
            f"made it: {commit_of(store)}"
        ) from error
    home = _home(store, study)
    data = spec.data.model_copy(update={"path": arguments.data}) if arguments.data else _data_from(home, spec.data)
    resources = study.resources.model_copy(update={"per_task": {}})
    models = study.models.model_copy(update={"teachers": [one.for_task(spec.task.name) for one in study.models.teachers]})
    base = _base(store, home)
    # the manifest has their names alone, where they lie elsewhere; the record's paths are those of the machine that made it
    given = dict(zip(spec.plugins, study.plugins, strict=False))
    plugins = [one if Path(one).is_file() else str(base / given.get(one, Path(one).name)) for one in spec.plugins]
    own = {
        "plugins": plugins,
        "data": data,
        "data_per_task": {},
        "tasks": [spec.task],
        "training_per_task": {},
        "resources": resources,
        "models": models,
        "watch": [],
    }
    study = study.model_copy(update=own)
    if not arguments.trust_plugin:
        _refuse_plugins_within(store.path, plugins)
    ready = prepare(make_plan(study, base), cache, Console())[spec.task.name]
    teachers = [ready.teacher_digests[teacher.name] for teacher in spec.teachers]
    for what, now, before in (
        ("rows", ready.data_digest, spec.data_digest),
        ("student's weights", ready.student_digest, spec.student_digest),
        ("teachers", teachers, spec.teacher_digests),
    ):
        if now != before:
            raise StoreError(f"the {what} of {spec.task.name} are not those of the stored run: digest {now}, stored {before}")
    return ready


def with_todays_code(spec: TrialSpec) -> TrialSpec:
    """To be trained with strategy and harness as they are now; where code has changed, the comparison of results says so."""
    from harness.hub import commits
    from harness.numeric_code import numeric_code
    from strategies import resolve

    today = {"strategy_code": resolve(spec.strategy).code_digest, "harness_code": numeric_code(), "hub_commits": commits()}
    return spec.model_copy(update=today)


def _home(store: Store, study: Study) -> Path:
    """The folder that the study was run in, if its results still lie where it put them; else the working directory."""
    given, folder = Path(study.results), store.path.resolve().parent
    if given.is_absolute() or folder.parts[-len(given.parts) :] != given.parts:
        return Path.cwd()
    return folder.parents[len(given.parts) - 1]


def _base(store: Store, home: Path) -> Path:
    """Where the study's relative paths start: the folder of its file, if the command that is stored still finds it there."""
    command = store.manifest().get("command", [])  # python -m harness.run STUDY ...
    file = home / (command[3] if len(command) > 3 else "")
    return file.resolve().parent if file.is_file() else home


def _data_from(home: Path, data: DataSpec) -> DataSpec:
    found = None if data.path is None else home / data.path
    return data if found is None or not found.exists() else data.model_copy(update={"path": str(found)})


def _refuse_plugins_within(results: Path, plugins: list[str]) -> None:
    for plugin in plugins:
        if Path(plugin).resolve().is_relative_to(results.resolve()):
            raise StoreError(
                f"the row's strategy is the plugin {plugin}, which lies in {results} and would be run. Read the file, and give "
                "--trust-plugin if you trust it."
            )
