from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.errors import UserError
from harness.report import Report
from harness.report.compare import Side, compare_labels
from harness.report.finding import finding
from harness.report.leaderboard import Leaderboard
from harness.report.notes import FILE, Notes, render_notes
from harness.report.readme import PARTS, refreshed, store_readme
from harness.report.verdicts import AgainstControls
from harness.study.comparisons import ComparisonsSpec, families

EMPTY = "<!-- report {store}: {parts} -->\nold\n<!-- end of report -->\n"


def with_verdicts(board: Leaderboard, verdicts: dict[str, tuple[float, str]]) -> Leaderboard:
    """The board as if these labels alone were the primary family, with these gains and verdicts."""
    labels = board.selection.labels
    comparisons = list(board.comparisons)
    for label, (gain, verdict) in verdicts.items():
        one = board.comparisons[labels.index(label)]
        assert one is not None
        comparisons[labels.index(label)] = replace(
            one, value=gain, low=gain - 0.01, high=gain + 0.01, verdict=verdict, p=0.01, repeats_needed=9, rests_on=""
        )
    return replace(board, comparisons=comparisons, declared=replace(board.declared, primary=tuple(verdicts)))


def test_controls_are_compared_as_the_command_compares(board: Leaderboard) -> None:
    (found,) = board.controls
    assert (found.label, found.controls) == ("rw_kd", ("shuffled(rw_kd)",))
    (one,) = found.comparisons
    scores = board.selection.scores[:, board.admission.in_mean].mean((1, 2))
    places = [board.selection.labels.index(label) for label in ("rw_kd", "shuffled(rw_kd)")]
    assert one.value == pytest.approx(scores[places[0]] - scores[places[1]])
    assert one.low < one.value < one.high
    text = compare_labels(Side(board.selection, "rw_kd"), Side(board.selection, "shuffled(rw_kd)"), draws=800)
    said = " ".join(text.split())
    assert re.search(re.escape(f" {100 * one.value:+.1f} [") + r"[^]]+\] points, p ", said)


def test_a_label_is_compared_with_the_controls_of_its_own() -> None:
    """Two labels of one strategy, with settings of their own; the second has none."""
    strategies = {"rw_kd": "rw_kd", "wide": "rw_kd", "shuffled(wide)": "shuffled(rw_kd)", "shuffled(rw_kd)": "shuffled(rw_kd)"}
    found = families(ComparisonsSpec(), strategies)
    assert found.primary == ("rw_kd", "wide")
    assert found.controls == {"rw_kd": ("shuffled(rw_kd)",), "wide": ("shuffled(wide)",)}
    assert families(ComparisonsSpec(primary=["wide", "gone"], controls=[]), strategies).primary == ("wide",)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (
            {"wsl": (0.02, "better"), "rw_kd": (0.0, "undecided")},
            "1 is better: `wsl` (+2.0 [+1.0, +3.0], p 0.010); none is worse; 1 is undecided",
        ),
        ({"wsl": (-0.02, "worse")}, "`wsl` (-2.0 [-3.0, -1.0], p 0.010) compared with plain KD (`fixed_alpha`) over"),
        ({"wsl": (-0.02, "worse")}, " tasks: worse."),
        (
            {"wsl": (0.0, "equivalent"), "rw_kd": (0.0, "equivalent")},
            "none is better; none is worse; 2 are equivalent within 0.5: `wsl`",
        ),
        (
            {"wsl": (0.01, "better"), "kd_only": (-0.01, "worse")},
            "1 is better: `wsl` (+1.0 [+0.0, +2.0], p 0.010); 1 is worse: `kd_only`",
        ),
    ],
)
def test_it_says_the_verdicts_and_nothing_else(board: Leaderboard, verdicts: dict[str, tuple[float, str]], said: str) -> None:
    first = finding(with_verdicts(board, verdicts))[0]
    assert said in first
    assert first.startswith(f"Of {len(verdicts)} strategies" if len(verdicts) > 1 else "`wsl` (")


def test_it_names_a_few_of_many(board: Leaderboard) -> None:
    labels = [label for label in board.selection.labels if label != board.baseline_label]
    first = finding(with_verdicts(board, dict.fromkeys(labels, (0.01, "better"))))[0]
    assert first.count("p 0.010") == 4
    assert f"{len(labels) - 4} more" in first


def test_both_controls_have_to_be_beaten(board: Leaderboard) -> None:
    (one,) = board.controls[0].comparisons
    won, lost = replace(one, verdict="better", p=0.01, rests_on=""), replace(one, verdict="undecided", p=0.3, repeats_needed=9)
    both = AgainstControls("rw_kd", ("shuffled(rw_kd)", "batch_mean(rw_kd)"), (won, lost))
    assert (both.verdict, both.p, both.words) == ("undecided", 0.3, "undecided (would need 9 repeats)")
    assert "none is better; 1 is undecided" in finding(replace(board, controls=[both]))[1]
    assert AgainstControls("rw_kd", both.controls, (won, replace(won, verdict="equivalent"))).words == "undecided"
    beaten = replace(both, comparisons=(won, replace(won, p=0.02)))
    assert (beaten.verdict, beaten.p, beaten.words) == ("better", 0.02, "better")
    assert "1 is better: `rw_kd`" in finding(replace(board, controls=[beaten]))[1]
    assert "controls" not in " ".join(finding(replace(board, controls=[])))


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
    inside = [task for task, used in zip(board.selection.tasks, board.admission.in_mean, strict=True) if used]
    assert notes.versus("rw_kd", "wsl").split()[0] == notes.difference("rw_kd", "wsl", *inside)
    assert notes.versus("rw_kd", "wsl", *inside) == notes.versus("rw_kd", "wsl")
    assert notes.versus("rw_kd", "wsl", "cola").split()[0] == notes.difference("rw_kd", "wsl", "cola")
    of_one = compare_labels(Side(board.selection, "rw_kd"), Side(board.selection, "wsl"), "cola")
    assert notes.versus("rw_kd", "wsl", "cola") in " ".join(of_one.split())
    assert notes.verdict("rw_kd") == board.verdict(board.selection.labels.index("rw_kd"))
    assert float(notes.detectable("rw_kd", "wsl")) > 0
    assert 0 <= float(notes.auroc("rw_kd", "cola")) <= 1


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ('gain("rw_kt")', "did you mean 'rw_kd'"),
        ('score("wsl", "coal")', "did you mean 'cola'"),
        ('versus("wsl", "rw_kd", "coal")', "did you mean 'cola'"),
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
