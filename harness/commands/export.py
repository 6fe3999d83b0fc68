"""`python -m harness export RESULTS ROW FOLDER`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_folder, cache_in_use
from harness.commands.arguments import results_folder
from harness.commands.manifest import portable
from harness.commands.train_again import add_row, add_training, commit_of, prepare_again, with_todays_code
from harness.errors import StoreError, UserError

if TYPE_CHECKING:
    from harness.records import TrialRecord
    from harness.store.store import Store

MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""What a student's folder is made of. Nothing else is taken out of a result folder, code least of all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_row(parser)
    parser.add_argument("folder", help="where the model goes; it must not exist")
    add_training(parser)
    parser.add_argument(
        "--allow-difference",
        action="store_true",
        help="export a student that predicts otherwise than the stored one, and say so",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write a row's student as a Hugging Face directory: the one that the study kept, else one that is trained again."""
    from harness.report.find_row import find_record
    from harness.report.model_card import model_card
    from harness.store.store import Store
    from harness.whole_folder import whole_folder

    results, folder = results_folder(arguments.results), Path(arguments.folder)
    if folder.exists():
        raise UserError(f"{folder} exists; name a folder that does not")
    record, store = find_record(results, arguments.row), Store(results)
    if record.status != "ok":
        raise UserError(f"{arguments.row}: this trial {_ended(record)}, so there is no student to export")
    if record.spec.student.pooling == "mean":
        raise UserError(
            f"{arguments.row}: this student reads the mean over its tokens (`pooling: mean`), which a Hugging Face folder of a "
            f"{record.spec.student.model or 'model from a config'} cannot say: `from_pretrained` would read another vector"
        )
    with whole_folder(folder) as unfinished:
        if (kept := store.student_folder(record.key)).is_dir():
            _copy(kept, unfinished)
            origin = "as it was trained in the study"
        else:
            origin = _trained_again(record, store, unfinished, arguments)
        (unfinished / "README.md").write_text(model_card(record, commit_of(store), origin), "utf-8")
        (unfinished / "harness.json").write_text(_facts(record), "utf-8")
    print(f"{folder}: the student of {record.spec.cell_id}, trial {record.spec.index}, {origin}")
    return 0


def _trained_again(record: TrialRecord, store: Store, folder: Path, arguments: argparse.Namespace) -> str:
    """Train the student into `folder`; in words, how it compares. Raises StoreError where its predictions differ."""
    from harness.report.find_row import compare_predictions
    from harness.training.trial import train_trial

    cache, scratch = cache_folder(), folder / "student"
    with cache_in_use(cache):
        prepare_again(record, store, cache, arguments)
        outcome = train_trial(with_todays_code(record.spec), cache, student_folder=scratch)
    assert outcome.predictions is not None
    rows, others, largest = compare_predictions(store.predictions(record.key), outcome.predictions)
    if largest > 0 and not arguments.allow_difference:
        raise StoreError(
            f"the student came out different: another class for {others} of {rows} rows, probabilities by up to {largest:.2g}. "
            f"The harness may have changed since (commit {commit_of(store)}), or the processor. Not exported; "
            "--allow-difference exports it all the same."
        )
    _copy(scratch, folder)
    shutil.rmtree(scratch)
    if largest > 0:
        return f"trained again, with another class for {others} of {rows} report rows than the stored one"
    return f"trained again, with the stored predictions for all {rows} report rows"


def _copy(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.suffix in MODEL_FILES and file.is_file():
            shutil.copyfile(file, target / file.name)


def _facts(record: TrialRecord) -> str:
    """The record as JSON, without its epochs, and without paths of the machine that made it."""
    content = record.model_dump(mode="json", exclude={"epochs"})
    content["spec"]["plugins"] = [portable(plugin) for plugin in record.spec.plugins]
    if path := record.spec.data.path:
        content["spec"]["data"]["path"] = portable(path)
    return json.dumps(content, indent=1) + "\n"


def _ended(record: TrialRecord) -> str:
    if record.status == "stopped":
        return f"was stopped early, after epoch {record.stopped_after_epoch}"
    return f"failed ({record.error.type}: {record.error.message})" if record.error else "failed"
