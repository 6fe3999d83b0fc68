from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.__main__ import main
from harness.errors import UserError
from harness.report import Report
from harness.report.compare import Side, compare_labels
from harness.report.controls import AgainstControl, against_controls
from harness.report.finding import finding
from harness.report.leaderboard import Leaderboard
from harness.report.notes import FILE, Notes, render_notes
from harness.report.readme import PARTS, refreshed, store_readme

EMPTY = "<!-- report {store}: {parts} -->\nold\n<!-- end of report -->\n"


def with_gains(board: Leaderboard, gains: dict[str, float], p: float) -> Leaderboard:
    """The board as if these labels alone had been told from plain KD."""
    value, adjusted = np.zeros(len(board.selection.labels)), np.ones(len(board.selection.labels))
    for label, gain in gains.items():
        place = board.selection.labels.index(label)
        value[place], adjusted[place] = gain, p
    adjusted[board.baseline] = np.nan
    return replace(board, gain=replace(board.gain, value=value), gain_p_holm=adjusted)


def test_controls_are_compared_as_the_command_compares(board: Leaderboard) -> None:
    (pair,) = board.controls
    assert (pair.label, pair.control) == ("rw_kd", "shuffled(rw_kd)")
    scores = board.selection.scores.mean((1, 2))
    places = [board.selection.labels.index(label) for label in (pair.label, pair.control)]
    assert pair.value == pytest.approx(scores[places[0]] - scores[places[1]])
    assert pair.low < pair.value < pair.high
    text = compare_labels(Side(board.selection, pair.label), Side(board.selection, pair.control), draws=800)
    assert f"{100 * pair.value:+.1f} points" in text


def test_a_label_is_compared_with_the_control_of_its_own(board: Leaderboard) -> None:
    """Two labels of one strategy, with settings of their own; the second has none."""
    selection = replace(
        board.selection,
        labels=("rw_kd", "wide", "shuffled(wide)", "shuffled(rw_kd)"),
        strategies={
            "rw_kd": "rw_kd",
            "wide": "rw_kd",
            "shuffled(wide)": "shuffled(rw_kd)",
            "shuffled(rw_kd)": "shuffled(rw_kd)",
        },
        rows={},
    )
    object.__setattr__(selection, "scores", np.zeros((4, 4, 2)))
    found = against_controls(selection, np.random.default_rng(0).normal(size=(100, 4)))
    assert [(pair.label, pair.control) for pair in found] == [("rw_kd", "shuffled(rw_kd)"), ("wide", "shuffled(wide)")]


@pytest.mark.parametrize(
    ("gains", "better", "worse"),
    [
        ({}, [], []),
        ({"wsl": 0.02}, ["wsl"], []),
        ({"ce_only": -0.02}, [], ["ce_only"]),
        ({"wsl": 0.01, "kd_only": -0.01}, ["wsl"], ["kd_only"]),
    ],
)
def test_it_claims_what_is_significant_and_nothing_else(
    board: Leaderboard, gains: dict[str, float], better: list[str], worse: list[str]
) -> None:
    first = finding(with_gains(board, gains, 0.01))[0]
    claim, _, rest = first.partition(";")
    assert claim.startswith("Better than") == bool(better)
    assert ("none is shown to be better" in claim) != bool(better)
    assert ("none is shown to be worse" in rest) != bool(worse)
    for label in better:
        assert f"`{label}` ({100 * gains[label]:+.1f}" in claim
    for label in worse:
        assert f"`{label}` ({100 * gains[label]:+.1f}" in rest
    assert finding(with_gains(board, gains, 0.06))[0].startswith("Of ")


def test_it_names_a_few_of_many(board: Leaderboard) -> None:
    labels = [label for label in board.selection.labels if label != board.baseline_label]
    first = finding(with_gains(board, dict.fromkeys(labels, 0.01), 0.01))[0]
    assert first.count("p 0.010") == 4
    assert f"{len(labels) - 4} more" in first


def test_a_control_that_is_beaten_is_said(board: Leaderboard) -> None:
    pair = AgainstControl("rw_kd", "shuffled(rw_kd)", 0.03, 0.01, 0.05, 0.001)
    assert "+3.0 [+1.0, +5.0] of `shuffled(rw_kd)`, p 0.001" in finding(replace(board, controls=[pair]))[1]
    level = finding(replace(board, controls=[replace(pair, p=0.3)]))[1]
    assert level.startswith("Nothing shows that information about single samples helps")
    assert "Nothing shows" not in " ".join(finding(replace(board, controls=[])))


def test_missing_cells_withhold_what_hangs_on_them(board_with_holes: Leaderboard) -> None:
    said = " ".join(finding(board_with_holes))
    assert "nan" not in said
    assert "`wsl`" not in said


def test_a_study_without_plain_kd_says_so(board: Leaderboard) -> None:
    assert "Plain KD was not run" in finding(replace(board, baseline=None))[0]


def test_the_stores_own_is_written_with_the_rest(report: Report) -> None:
    text = (report.folder / "README.md").read_text("utf-8")
    assert report.folder / "README.md" in report.files
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (report.folder / target).is_file()
    assert "nan" not in text


def test_notes_have_figures_by_name(board: Leaderboard, tmp_path: Path) -> None:
    assert render_notes(board, tmp_path) == ""
    (tmp_path / FILE).write_text('rw_kd: {{ gain("rw_kd") }}, {{ versus("rw_kd", "wsl") }}, {{ score("wsl", "cola") }}\n')
    notes = Notes(board)
    text = f"rw_kd: {notes.gain('rw_kd')}, {notes.versus('rw_kd', 'wsl')}, {notes.score('wsl', 'cola')}"
    assert render_notes(board, tmp_path) == text
    assert text in store_readme(board, tmp_path)
    task, label = board.selection.tasks.index("cola"), board.selection.labels.index("wsl")
    assert notes.score("wsl", "cola") == f"{100 * board.task_mean[label, task]:.1f}"
    assert notes.difference("wsl", "wsl", *board.selection.tasks) == "+0.0"
    assert notes.versus("rw_kd", "wsl").split()[0] == notes.difference("rw_kd", "wsl", *board.selection.tasks)
    assert float(notes.detectable("rw_kd", "wsl")) > 0
    assert 0 <= float(notes.auroc("rw_kd", "cola")) <= 1


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ('gain("rw_kt")', "did you mean 'rw_kd'"),
        ('score("wsl", "coal")', "did you mean 'cola'"),
        ('weight("wsl", "cola", "nothing")', "has no logged mean of nothing"),
        ("magic", "'magic' is undefined"),
        ("gain.__globals__", "unsafe"),
        ("gain(", "unexpected"),
    ],
)
def test_notes_that_ask_for_what_is_not_there(board: Leaderboard, tmp_path: Path, asked: str, answer: str) -> None:
    (tmp_path / FILE).write_text(f"{{{{ {asked} }}}}")
    with pytest.raises(UserError, match=re.escape(answer)) as raised:
        render_notes(board, tmp_path)
    assert FILE in str(raised.value)


def test_blocks_of_the_store_are_made_anew_and_no_others(report: Report, board: Leaderboard, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    other = EMPTY.format(store="elsewhere", parts="finding")
    readme.write_text("before\n" + EMPTY.format(store=report.folder, parts=" ".join(PARTS)) + "between\n" + other + "after\n")
    once = refreshed(readme, board, report.folder)
    assert once.startswith("before\n")
    assert once.endswith("between\n" + other + "after\n")
    for sentence in finding(board):
        assert sentence in once
    assert once.count("| `rw_kd`") == 1
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", once)
    assert (tmp_path / picture).is_file()
    readme.write_text(once)
    assert refreshed(readme, board, report.folder) == once


@pytest.mark.parametrize(
    ("text", "answer"),
    [("no block\n", "has no block"), (EMPTY.format(store="{store}", parts="finding magic"), "asks for magic")],
)
def test_a_readme_that_cannot_be_refreshed(report: Report, board: Leaderboard, tmp_path: Path, text: str, answer: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text.replace("{store}", str(report.folder)))
    with pytest.raises(UserError, match=answer):
        refreshed(readme, board, report.folder)


def test_a_readme_that_is_not_there_is_refused_before_any_work(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study), "--readme", "nowhere.md"]) == 2
    assert "nowhere.md: no such file" in capsys.readouterr().err


def test_the_markdown_table_is_of_all_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tasks", "--markdown"]) == 2
    assert main(["list", "strategies", "wsl", "--markdown"]) == 2
    assert capsys.readouterr().err.count("--markdown goes with `list strategies` alone") == 2
