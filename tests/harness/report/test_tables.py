from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.records import Score
from harness.report.caption import caption
from harness.report.cells import number, side_tables
from harness.report.finding import finding
from harness.report.leaderboard import Leaderboard, make_leaderboard
from harness.report.page import page
from harness.report.page_data import _number
from harness.report.tables import csv_text, latex, markdown, scores_text
from harness.report.terminal import text
from harness.stats.measures import MEASURES
from harness.store.frame import to_frame
from harness.store.store import Store
from tests.harness.report.stores import Planted, build_store


def test_markdown_holds_every_strategy_and_says_where_it_comes_from(board: Leaderboard) -> None:
    shown = markdown(board)
    for label in board.selection.labels:
        assert f"| **{label}**" in shown if label == "fixed_alpha" else f"| {label} " in shown
    for said in ("2,000 training", "200 validation rows", "package:mini/model, layers 0, 2, 4", "protocol 1.0, table by 3",
                 "2 independent searches of 2 trials", "equal_labels", "2025-03-02", "0123456789ab",
                 "20% of training labels"):  # fmt: skip
        assert said in shown, said
    row = next(line for line in shown.splitlines() if line.startswith("| rw_kd "))
    assert f"{100 * board.task_mean[board.selection.labels.index('rw_kd'), 0]:.1f} ± " in row
    wsl = next(line for line in shown.splitlines() if line.startswith("| wsl "))
    assert "†" in wsl
    assert "8/8 (1 failed)" in shown
    widths = {line.count("|") for line in shown.split("## Over")[0].splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_csv_has_what_no_processor_rounds_otherwise_and_reads_back(board: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(board))))
    assert [row["label"] for row in rows] == [board.selection.labels[i] for i in board.order]
    first = board.order[0]
    assert float(rows[0]["cola.mean"]) == pytest.approx(board.task_mean[first, 0], rel=1e-11)
    assert float(rows[0]["normalised"]) == pytest.approx(board.normalised[first], rel=1e-11)
    otherwise = replace(board, task_mean=np.nextafter(board.task_mean, 1), difference=board.difference - 1e-17)
    assert csv_text(otherwise) == csv_text(board)
    verdicts = {row["label"]: row["verdict"] for row in rows}
    assert all(bool(verdicts[label]) == (label in board.declared.primary) for label in board.selection.labels)
    assert {row["protocol_version"] for row in rows} == {"1.0"}
    assert {row["label_budget"] for row in rows} == {"equal_labels"}


def test_latex_is_escaped_and_balanced(board: Leaderboard) -> None:
    shown = latex(board)
    assert shown.count("{") == shown.count("}")
    assert shown.count(r"\begin{tabular}") == shown.count(r"\end{tabular}") == 2
    assert re.search(r"(?<!\\)_", shown) is None
    assert "rw\\_kd" in shown
    for table in shown.split(r"\midrule")[1:2]:
        columns = {line.count("&") for line in table.splitlines() if line.endswith(r"\\")}
        assert columns == {len(board.selection.tasks)}
    assert all(ord(letter) < 128 for letter in shown)


def test_missing_cells_are_marked_and_averages_withheld(board_with_holes: Leaderboard) -> None:
    shown = markdown(board_with_holes)
    scores, overall = shown.split("## Over tasks")
    assert "‡" in next(line for line in scores.splitlines() if line.startswith("| wsl "))
    row = next(line for line in overall.splitlines() if line.startswith("| wsl "))
    assert row.count("withheld") == 4
    assert "better" not in row
    assert "Rank" not in overall.splitlines()[2]
    assert "3/4" in row
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(csv_text(board_with_holes)))}
    assert rows["wsl"]["mean"] == rows["wsl"]["rank_best"] == rows["rw_kd"]["rank_best"] == ""


@pytest.mark.parametrize("width", [80, 100, 160, 400])
def test_the_terminal_fits_what_matters(board: Leaderboard, width: int) -> None:
    shown = text(board, width)
    table = shown.split("\n\n", 1)[0].splitlines()
    heads = table[0].split()
    assert heads[:4] == ["strategy", "gain", "verdict", "passes"]
    assert max(map(len, shown.splitlines()[:-1])) <= width  # the last line is a path
    assert len(table) == len(board.selection.labels) + 2
    assert all(line.split()[0] == board.selection.labels[i] for line, i in zip(table[2:], board.order, strict=True))
    assert finding(board)[0] in " ".join(shown.split())
    assert str(board.selection.path / "index.html") in shown.splitlines()[-1]
    assert ("cola Matthews" in table[0]) == (width == 400)


def test_a_low_terminal_keeps_plain_kd_and_says_how_many_more_there_are(board: Leaderboard) -> None:
    shown = text(board, 80, lines=14)
    assert len(shown.splitlines()) <= 14
    assert "fixed_alpha" in shown.split("\n\n")[0]
    assert f"{len(board.selection.labels) - 5} more strategies" in shown
    only = text(board, 80, only=("wsl", "rw_kd"))
    assert "kd_only " not in only
    assert len(only.split("\n\n", 1)[0].splitlines()) == 4


def test_a_study_of_references_alone_has_a_table_without_verdicts(tmp_path: Path) -> None:
    store = build_store(tmp_path / "store", Planted(("rte",), ("ce_only", "kd_only", "fixed_alpha"), trials=1, rows=40))
    shown = text(make_leaderboard(store.path, draws=100), 80)
    assert shown.split()[:2] == ["strategy", "gain"]
    assert "verdict" not in shown.split("\n\n")[0]
    assert "No strategy is declared" in shown


@pytest.mark.parametrize("width", [80, 160])
def test_measures_of_probabilities_take_the_place_of_other_columns_where_asked_for(board: Leaderboard, width: int) -> None:
    assert "nll" not in text(board, width)
    for names in (("nll",), ("brier", "nll"), tuple(MEASURES)):
        table = text(board, width, measures=names).split("\n\n", 1)[0].splitlines()
        assert max(map(len, table)) <= width
        places = [table[0].index(MEASURES[name].title.lower()) for name in names]
        assert places == sorted(places)
    row = next(line for line in markdown(board).split("## From probabilities")[1].splitlines() if line.startswith("| rw_kd "))
    assert f"{board.measures['nll'].value.value[board.selection.labels.index('rw_kd')]:.3f} [" in row


def test_agreement_is_with_the_mean_of_all_teachers_of_the_task(board: Leaderboard) -> None:
    """One strategy has three of them, the others the first."""
    selection, store = board.selection, Store(board.selection.path)
    for t, task in enumerate(selection.tasks):
        teachers = [store.teacher_table(f"{digest}-c{task}").to_pandas() for digest in "789"]
        columns = [name for name in teachers[0] if name.startswith("p") and name != "predicted"]
        mean = np.mean([frame[columns].to_numpy(np.float64) for frame in teachers], axis=0).argmax(1)
        agreed = []
        for row in selection.of("rw_kd", task):
            assert row.record is not None
            frame = store.predictions(row.record.key)
            agreed.append((frame[frame["split"] == "validation"][columns].to_numpy().argmax(1) == mean).mean())
        found = board.measures["agreement"].on_tasks[selection.labels.index("rw_kd"), t]
        assert found == pytest.approx(np.mean(agreed))
    assert "The teacher is the mean" in markdown(board)


@pytest.mark.parametrize("what", ["nothing is kept", "one is damaged", "of one task alone"])
def test_agreement_that_is_not_stored_is_not_shown(what: str, study: Path, tmp_path: Path) -> None:
    path = shutil.copytree(study, tmp_path / "store")
    for file in path.glob("teachers/*.parquet"):
        if what == "nothing is kept" or (what == "of one task alone" and "-ccola-" not in file.name):
            file.unlink()
        elif what == "one is damaged" and file.name.startswith("8-"):
            file.write_bytes(file.read_bytes()[:-9])
    board = make_leaderboard(path, draws=100)
    assert "nll" in board.measures
    if what == "of one task alone":  # no mean over tasks
        agreement = board.measures["agreement"]
        assert np.isnan(agreement.value.value).all()
        assert np.isfinite(agreement.on_tasks[board.selection.labels.index("rw_kd")]).tolist() == [True, False, False, False]
        return
    assert "agreement" not in board.measures
    assert "Agreement with the teacher: not stored" in markdown(board)
    assert ("sha256 differs" in " ".join(caption(board))) == (what == "one is damaged")


def test_a_failed_run_said_no_probabilities(board: Leaderboard) -> None:
    """Nor is there anything to average over for a strategy that lacks a cell."""
    failed = board.selection.labels.index("wsl")
    rest = np.arange(len(board.selection.labels)) != failed
    for found in board.measures.values():
        assert np.isnan(found.value.value[failed])
        for one in (found.value, found.difference):
            inside = (one.low[rest] <= one.value[rest] + 1e-9) & (one.value[rest] <= one.high[rest] + 1e-9)
            assert inside.all()
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(csv_text(board)))}
    assert rows["wsl"]["nll"] == ""
    of_rw_kd = board.selection.labels.index("rw_kd")
    assert float(rows["rw_kd"]["nll"]) == pytest.approx(board.measures["nll"].value.value[of_rw_kd], rel=1e-11)
    assert float(rows["rw_kd"]["cola.recall_acceptable"]) == pytest.approx(board.classes["cola"].recall[of_rw_kd, 1], rel=1e-11)


def test_gains_are_told_apart_by_how_many_labels_were_flipped(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2", "rte", "qnli"), ("fixed_alpha", "rw_kd"), trials=1, rows=80, flipped=0.2))
    manifest = store.manifest()
    manifest["study"]["data_per_task"] = {"rte": {"label_noise": 0.4}}
    store.write_manifest(manifest)
    board = make_leaderboard(tmp_path, draws=50)
    gains = (board.selection.scores[1] - board.selection.scores[0]).mean(-1)
    inside = board.admission.in_mean
    want = {"20%": gains[[t for t in (0, 2) if inside[t]]].mean(), "40%": gains[1]}
    assert {level: pytest.approx(found.value[1]) for level, found in board.noise_gains.items()} == want
    assert all(found.value[0] == 0.0 for found in board.noise_gains.values())
    (said,) = (sentence for sentence in finding(board) if sentence.startswith("By share of flipped training labels"))
    (line,) = re.findall(r"## By share of flipped labels.*?(\| rw_kd .*?)\n", markdown(board), re.DOTALL)
    for level, gain in want.items():
        assert f"with {level.rstrip('%')} % `rw_kd` is at {100 * gain:+.1f} [" in said
        assert f"| {100 * gain:+.1f} [" in line
    assert np.isnan(board.flips_found[0])  # one weight for all samples
    assert board.flips_found[1] == pytest.approx(0.8)


def test_scores_have_a_line_for_every_task_strategy_and_repeat(board: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(scores_text(board))))
    assert len(rows) == board.selection.scores.size
    for row in rows:
        place = (board.selection.labels.index(row["label"]), board.selection.tasks.index(row["task"]), int(row["repeat"]))
        assert float(row["score"]) == board.selection.scores[place]
        assert (row["state"] == "failed") or int(row["passes"]) > 0
        assert row["trial"]


def test_what_is_marked_and_bold_has_a_verdict(board: Leaderboard) -> None:
    lines = [line for line in latex(board).splitlines() if "textbf" in line]
    assert sum(line.count("textbf") for line in lines) == sum(
        board.significant(i, t) > 0 for i in range(len(board.selection.labels)) for t in range(len(board.selection.tasks))
    )
    for i, label in enumerate(board.selection.labels):
        if label not in board.declared.primary:
            assert board.verdict(i) == ""
            assert not any(board.significant(i, t) for t in range(len(board.selection.tasks)))


def test_winner_mode_and_defaults_are_labelled(tmp_path: Path) -> None:
    build_store(tmp_path / "winner", Planted(("sst2",), ("ce_only", "fixed_alpha"), trials=2, rows=20, repeat="winner"))
    assert "`repeat: winner`" in caption(make_leaderboard(tmp_path / "winner", draws=50))[0]
    build_store(tmp_path / "default", Planted(("sst2",), ("ce_only", "fixed_alpha"), trials=1, rows=20))
    assert "not tuned" in caption(make_leaderboard(tmp_path / "default", draws=50))[0]


def test_rounded_zero_has_no_sign(board: Leaderboard) -> None:
    assert re.search(r"[-−]0\.0+\b(?!\d)", markdown(board)) is None


@pytest.mark.parametrize("make", [markdown, csv_text, latex, scores_text, text])
def test_the_same_store_gives_the_same_bytes(study: Path, board: Leaderboard, make: object) -> None:
    assert callable(make)
    again = make_leaderboard(study, draws=800)
    assert make(again) == make(board)
    assert np.array_equal(again.task_low, board.task_low)


def test_the_caption_says_how_full_the_slots_were_where_an_event_log_says_it(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2",), ("fixed_alpha", "rw_kd"), repeats=1, trials=1, rows=40))
    assert not any("Slot use" in said for said in caption(make_leaderboard(tmp_path, draws=20)))
    events = [
        {"kind": "started", "trials": 2, "cells": 2},
        {"kind": "slots", "slots": 2, "cells": 2},
        {"kind": "trial_finished", "cell": "a", "key": "a", "train_seconds": 12.0, "total_seconds": 25.0},
        {"kind": "ended", "done": 2, "failed": 0, "from_store": 1},
    ]
    lines = [json.dumps({"time": f"2026-01-01T00:00:{10 * k:02}+00:00", **event}) for k, event in enumerate(events, 1)]
    (store.path / "events.jsonl").write_text("\n".join(lines) + "\n")
    (said,) = [said for said in caption(make_leaderboard(tmp_path, draws=20)) if "Slot use" in said]
    assert said.startswith("Slot use 60% in the last run that trained (1 trial)")


def test_the_caption_says_which_tasks_have_flipped_labels_where_they_differ(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2", "rte", "qnli"), ("fixed_alpha", "rw_kd"), repeats=1, trials=1, rows=40))
    manifest = store.manifest()
    manifest["study"]["data_per_task"] = {"rte": {"label_noise": 0.2}, "qnli": {"label_noise": 0.4}}
    store.write_manifest(manifest)
    said = " ".join(caption(make_leaderboard(tmp_path, draws=20)))
    assert "20% (rte), 40% (qnli) of training labels flipped on purpose" in said


def test_a_label_with_a_bar_is_one_cell(tmp_path: Path) -> None:
    build_store(tmp_path, Planted(tasks=("sst2",), strategies=("fixed_alpha", "a|b"), trials=1))
    rows = [line for line in markdown(make_leaderboard(tmp_path, draws=50)).splitlines() if line.startswith("| ")]
    cells = {name: [len(re.split(r"(?<!\\)\|", row)) for row in rows if name in row] for name in ("fixed_alpha", r"a\|b")}
    assert set(cells["fixed_alpha"]) == set(cells[r"a\|b"])


def test_a_strangers_store_cannot_command_a_terminal_or_a_spreadsheet(tmp_path: Path) -> None:
    """A study refuses such labels; nobody says that a study has made the store."""
    build_store(tmp_path, Planted(tasks=("sst2",), strategies=("fixed_alpha", "\x1b[2Jgone", "=1+1"), trials=1))
    board = make_leaderboard(tmp_path, draws=50)
    assert "\x1b" not in text(board) + markdown(board)
    assert "\ufffd[2Jgone" in text(board)
    assert "'=1+1" in {row["label"] for row in csv.DictReader(io.StringIO(csv_text(board)))}


def test_a_strategy_with_a_meta_set_is_compared_on_equal_rows_where_that_is_declared(tmp_path: Path) -> None:
    gains = {"fixed_alpha": 0.0, "fit_only(fixed_alpha)": -0.08, "rw_kd": 0.0}
    store = build_store(tmp_path, Planted(strategies=tuple(gains), tasks=("sst2", "qnli", "rte"), repeats=3, gains=gains))
    manifest = store.manifest()
    manifest["study"]["protocol"] = {"comparisons": {"equal_rows": ["rw_kd"]}}
    store.write_manifest(manifest)
    board = make_leaderboard(tmp_path, draws=400)
    (one,) = board.equal_rows
    assert one.comparisons[0].value == pytest.approx(board.gain.value[2] - board.gain.value[1])
    assert one.verdict == "better"
    assert "minus fit_only(fixed_alpha) [95 %]" in markdown(board)
    (table,) = (found for found in side_tables(board) if found.title == "On equal rows")
    for cells in (table.header, *table.rows):
        assert all(f">{cell}</t" in page(board, [], tmp_path) for cell in cells)
    assert "worth it? Against plain KD on as many labels (`fit_only(fixed_alpha)`): `rw_kd` is better" in " ".join(
        finding(board)
    )
    assert "fit_only(fixed_alpha)" not in [board.selection.labels[found.first] for found in board.primary]


def test_scores_are_of_the_rows_that_the_study_reports_on(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(strategies=("fixed_alpha",), tasks=("sst2",), repeats=1, trials=1))
    (record,) = store.records()
    both = {"validation": record.report["validation"], "train_surplus": Score(rows=100, metrics={"accuracy": 0.25})}
    data = record.spec.data.model_copy(update={"report_from_train": 100})
    surplus = record.model_copy(update={"spec": record.spec.model_copy(update={"data": data}), "report": both})
    frame = to_frame([record, surplus])
    assert frame["score"].tolist() == [record.report["validation"].metrics["accuracy"], 0.25]
    assert frame["validation.accuracy"].nunique() == 1


def test_a_figure_of_the_page_rounds_as_that_of_the_table() -> None:
    value = 0.02150021027  # cut to six digits, it would be shown as 2.1
    shown = _number(value)
    assert shown is not None
    assert f"{100 * shown:.1f}" == number(100 * value) == "2.2"
