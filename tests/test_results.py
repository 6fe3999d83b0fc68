"""What is published is what the report makes of its store today; it travels light, and tells nothing of its machine."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from harness.__main__ import main
from harness.models.own_head import classifier_digest
from harness.models.sources import PACKAGE_PREFIX
from harness.report.finding import finding
from harness.report.leaderboard import make_leaderboard
from harness.report.predictions import load_predictions
from harness.report.readme import refreshed, store_readme
from harness.report.selection import select
from harness.report.tables import csv_text, markdown
from harness.store.store import Store
from harness.teachers.fine_tuning import TeacherJob
from tests.conftest import PROJECT

ADDED = [line.strip("!/") for line in (PROJECT / ".gitignore").read_text().splitlines() if line.startswith("!results/")]
PUBLISHED = [folder for folder in (PROJECT / name for name in ADDED) if (folder / "manifest.json").exists()]
"""Not what a user's own runs have left beside them."""
ON_THE_FRONT_PAGE = "glue_powered"
LARGE = ("glue_minilm", "label_noise")
"""A minute each. The others are tables of the same code."""


@pytest.mark.parametrize(
    "store",
    [pytest.param(path, marks=pytest.mark.slow if path.name in LARGE else (), id=path.name) for path in PUBLISHED],
)
def test_published_tables_are_those_of_their_store(store: Path) -> None:
    board = make_leaderboard(store)
    assert markdown(board) == (store / "leaderboard.md").read_text("utf-8")
    assert csv_text(board) == (store / "leaderboard.csv").read_text("utf-8")
    assert store_readme(board, store) == (store / "README.md").read_text("utf-8")
    assert len(" ".join(finding(board)).split()) <= 200
    for readme in (PROJECT / "results" / "README.md", *([PROJECT / "README.md"] if store.name == ON_THE_FRONT_PAGE else [])):
        assert refreshed(readme, board, store) == readme.read_text("utf-8")


@pytest.mark.parametrize("store", PUBLISHED, ids=lambda path: path.name)
def test_published_differences_are_those_of_pandas_and_a_closed_form(store: Path) -> None:
    """From the packed predictions alone: accuracies, their paired differences, and intervals without any resampling."""
    board = pd.read_csv(store / "leaderboard.csv", index_col="label")
    scored = right_predictions(store)
    assert scored
    for task, right in scored.items():
        for label, own in right.items():
            shown = board.loc[label, [f"{task}.difference{end}" for end in ("", "_low", "_high")]].to_numpy(float)
            difference = own - right["fixed_alpha"]  # [repeats, rows]
            repeats, rows = difference.shape
            of_rows, of_repeats = difference.mean(0).var() / rows, difference.mean(1).var(ddof=1) / repeats
            by_chance = (difference.var(1).mean() / rows - of_rows) / (repeats - 1)  # it is in the repeats' spread already
            of_rows = max(of_rows - by_chance, 0.0)
            error = np.sqrt(of_rows + of_repeats)
            share = of_repeats / error**2 if error else 0.0
            half = error * ((1 - share) * norm.ppf(0.975) + share * t.ppf(0.975, repeats - 1))  # Cochran & Cox 1950
            mean = difference.mean()
            assert shown[0] == pytest.approx(mean, abs=1e-9)
            np.testing.assert_allclose(shown[1:], [mean - half, mean + half], atol=0.06 * half + 1e-5)


def test_official_validation_stands_beside_the_rows_of_train_that_scores_are_of() -> None:
    store = PROJECT / "results" / ON_THE_FRONT_PAGE
    board = make_leaderboard(store, draws=400)
    right = right_predictions(store, "validation")
    shown = pd.read_csv(store / "leaderboard.csv").set_index("label")
    for (name, (score, against)), task in zip(board.further_splits.items(), board.selection.tasks, strict=True):
        assert name == f"{task} validation"
        for i, label in enumerate(board.selection.labels):
            assert score.value[i] == pytest.approx(right[task][label].mean())
            assert against.value[i] == pytest.approx((right[task][label] - right[task]["fixed_alpha"]).mean())
            row = shown.loc[label]
            assert row[f"{task}.validation"] == pytest.approx(score.value[i])
            assert row[f"{task}.validation_difference"] == pytest.approx(against.value[i], abs=1e-9)


def right_predictions(store: Path, split: str | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Of each task that is scored by accuracy and has all of its runs: label -> [repeats, rows], 1.0 where the run is right.

    `split`: not given, that which scores are of.
    """
    records = pd.read_parquet(store / "pack" / "records.parquet")
    predictions = pd.read_parquet(store / "pack" / "predictions.parquet")
    predictions = predictions.assign(trial=np.repeat(records["key"].to_numpy(), records["prediction_rows"]))
    scores = pd.read_csv(store / "scores.csv")
    by_accuracy = {one.spec.task.name for one in Store(store).records() if one.spec.task.headline_metric == "accuracy"}
    found: dict[str, dict[str, np.ndarray]] = {}
    for task, runs in scores.groupby("task"):
        known = runs.merge(predictions, on="trial")
        headline = "train_surplus" if (known["split"] == "train_surplus").any() else "validation"
        known = known[known["split"] == (split or headline)]
        right = known.assign(right=(known["label_y"] == known["predicted"]).astype(float))
        table = right.pivot_table(index=["label_x", "repeat"], columns="id", values="right")
        accuracies = runs.set_index(["label", "repeat"])["score"]
        if task not in by_accuracy or table.isna().any(axis=None):
            continue
        if split is None or split == headline:
            np.testing.assert_allclose(table.mean(axis=1), accuracies.loc[table.index], atol=1e-9)
        found[str(task)] = {str(label): one.to_numpy() for label, one in table.groupby(level=0)}
    return found


def test_nothing_published_names_a_folder_of_the_machine_that_made_it() -> None:
    texts = [
        path for store in PUBLISHED for path in store.rglob("*") if path.suffix in {".json", ".jsonl", ".html", ".md", ".csv"}
    ]
    assert texts
    assert [str(path) for path in texts if re.search(r"/(home|root|work|tmp|Users)/", path.read_text("utf-8"))] == []


def test_tasks_with_the_same_rows_share_the_draws_of_examples() -> None:
    selection = select(PROJECT / "results" / "label_noise")
    found = {task: load_predictions(selection, task, ("ce_only",)) for task in ("sst2", "sst2_noise40", "qqp")}
    clean, noisy, other = (task.seeds for task in found.values() if task is not None)
    assert clean.examples == noisy.examples != other.examples
    assert len({clean.repeats, noisy.repeats, other.repeats}) == 3


@pytest.mark.slow
def test_the_row_of_the_guide_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the harness as it is today: a change of its numerics makes what is published irreproducible. Other processors than
    the published run's may round differently.
    """
    row = "python -m harness reproduce results/planted_truth sst2/rw_kd/1"
    assert row in (PROJECT / "results" / "README.md").read_text("utf-8")
    monkeypatch.chdir(PROJECT)
    assert main(row.split()[3:]) == 0


@pytest.mark.parametrize("store", PUBLISHED, ids=lambda path: path.name)
def test_what_was_trained_keeps_its_key(store: Path) -> None:
    """Also when specifications get further fields: a study goes on from its store, and teachers are found in the cache."""
    jobs, elsewhere = {}, 0
    for record in Store(store).records():
        spec = record.spec
        assert spec.key == record.key
        for number, (teacher, digest) in enumerate(zip(spec.teachers, spec.teacher_digests, strict=True)):
            if teacher.model is None or teacher.model.startswith(PACKAGE_PREFIX):  # else its files are not here
                jobs[spec.task.name, spec.data_digest, spec.data.max_length, number, digest] = spec, teacher
            else:
                elsewhere += 1
    assert jobs or elsewhere
    for (*_, digest), (spec, teacher) in jobs.items():  # most trials share theirs
        job = TeacherJob(
            task=spec.task,
            teacher=teacher,
            data_digest=spec.data_digest,
            source_digest=classifier_digest(teacher, spec.task.labels),
            max_length=spec.data.max_length,
        )
        assert job.digest == digest


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_a_published_store_is_packed_whole_and_its_page_is_small(folder: Path) -> None:
    store = Store(folder)
    assert store.open_keys() == set()
    assert store.verify() == []
    assert set(store.manifest()["trials"]) <= set(store.keys())
    assert (folder / "index.html").stat().st_size < 1_500_000
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_no_packed_text_names_a_folder_of_the_machine_that_made_it(folder: Path) -> None:
    store = Store(folder)
    texts = [sealed.text.decode() for key in store.keys() if (sealed := store.sealed(key)) is not None]  # noqa: SIM118
    assert texts
    assert [text[:200] for text in (*texts, *store.event_lines()) if re.search(r"/(home|root|work|tmp|Users)/", text)] == []
