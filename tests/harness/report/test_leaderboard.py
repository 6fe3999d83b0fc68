from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.report.caption import legend
from harness.report.costs import equal_compute_scores
from harness.report.leaderboard import Leaderboard, make_leaderboard
from tests.harness.report.stores import Planted, build_store


def test_figures_follow_from_the_scores(board: Leaderboard) -> None:
    scores = board.selection.scores
    names = board.selection.labels
    np.testing.assert_allclose(board.task_mean, scores.mean(-1))
    np.testing.assert_allclose(board.task_spread, scores.std(-1, ddof=1))
    inside = board.admission.in_mean
    left_out = [task for task, used in zip(board.selection.tasks, inside, strict=True) if not used]
    assert left_out == ["mrpc"]  # where plain KD is at the majority class's F1
    assert "mrpc (plain KD" in board.admission.said
    np.testing.assert_allclose(board.mean_score.value, scores[:, inside].mean((1, 2)))
    assert board.baseline_label == "fixed_alpha"
    student = scores[names.index("ce_only")].mean(-1)
    normalised = (scores.mean(-1) - student) / (board.teacher - student)
    np.testing.assert_allclose(board.normalised, normalised[:, board.normalised_tasks].mean(1), atol=1e-9)
    gain = (scores.mean(-1) - scores[names.index("fixed_alpha")].mean(-1))[:, inside].mean(1)
    np.testing.assert_allclose(board.gain.value, gain, atol=1e-12)
    assert [names[i] for i in board.order] == sorted(names, key=lambda name: -gain[names.index(name)])


@pytest.mark.parametrize("same_student", [True, False])
def test_students_that_are_right_on_the_same_rows_may_yet_differ_unless_they_are_one(
    tmp_path: Path, same_student: bool
) -> None:
    store = build_store(tmp_path / "store", Planted(("rte",), ("fixed_alpha", "wsl"), repeats=6, trials=1, rows=60))
    plain = {record.spec.repeat: record for record in store.records() if record.spec.label == "fixed_alpha"}
    for record in store.records():
        if record.spec.label == "wsl":
            frame = store.predictions(plain[record.spec.repeat].key)
            if not same_student:  # surer of the same classes
                frame["p1"] = frame["p1"] + 0.01 * np.where(frame["predicted"] == 1, 1, -1)
                frame["p0"] = 1 - frame["p1"]
            store.write(record.model_copy(update={"report": plain[record.spec.repeat].report}), frame)
    board = make_leaderboard(store.path, draws=1000)
    one = board.comparisons[1]
    assert one is not None
    assert one.value == 0
    said = " ".join(board.notes)
    if same_student:
        assert (one.words, one.low, one.high) == ("equivalent within 0.5", 0, 0)
        assert "1 of 1 strategies trained the students of fixed_alpha" in said
    else:
        assert one.words == "undecided (would need more rows)"
        assert one.high == -one.low == pytest.approx(3.69 / 60, rel=0.01)
        assert "1 of 1 strategies were right on the very rows" in said


def test_intervals_hold_their_figure_and_tests_are_adjusted(board: Leaderboard) -> None:
    others = np.arange(len(board.selection.labels)) != board.baseline
    for estimate in (board.mean_score, board.gain, board.gain_weighted):
        inside = (estimate.low <= estimate.value + 1e-9) & (estimate.value <= estimate.high + 1e-9)
        assert inside[others].all()
    assert (board.task_low <= board.task_mean).all()
    made = np.isfinite(board.p)
    assert made.sum(0).tolist() == [len(board.selection.labels) - 1] * len(board.selection.tasks)
    assert np.isfinite(board.p_holm).any(1).tolist() == [name in board.declared.primary for name in board.selection.labels]
    adjusted = np.isfinite(board.p_holm)
    assert (board.p_holm[adjusted] >= board.p[adjusted]).all()
    assert (board.detectable_corrected >= board.detectable).all()
    assert (board.detectable > 0).all()


def test_a_planted_difference_is_found_and_a_null_one_is_not(tmp_path: Path) -> None:
    gains = {"rw_kd": 0.1, "wsl": 0.0, "ce_only": -0.1}
    planted = Planted(("sst2", "qnli"), ("ce_only", "fixed_alpha", "wsl", "rw_kd"), repeats=5, trials=1, rows=700, gains=gains)
    build_store(tmp_path, planted)
    board = make_leaderboard(tmp_path, draws=1000)
    names = board.selection.labels
    assert [board.significant(names.index("rw_kd"), t) for t in (0, 1)] == [1, 1]
    assert [board.significant(names.index("ce_only"), t) for t in (0, 1)] == [0, 0]  # a reference: not declared
    assert (board.p[names.index("ce_only")] < 0.01).all()
    assert [board.significant(names.index("wsl"), t) for t in (0, 1)] == [0, 0]
    assert board.verdict(names.index("rw_kd")) == "better"
    assert board.verdict(names.index("wsl")).startswith("undecided (would need ")
    assert board.verdict(names.index("ce_only")) == ""
    assert board.improvement[names.index("rw_kd")] == 1.0
    assert names[board.order[0]] == "rw_kd"


def test_missing_cells_withhold_averages_and_all_ranks(board_with_holes: Leaderboard) -> None:
    board = board_with_holes
    hole = board.selection.labels.index("wsl")
    others = [i for i in range(len(board.selection.labels)) if i != hole]
    for values in (board.mean_score.value, board.normalised, board.gain.value, board.improvement):
        assert np.isnan(values[hole])
        assert np.isfinite(values[[i for i in others if i != board.baseline]]).all()
    assert board.verdict(hole) == ""
    assert board.rank_ranges is None
    assert board.ranking is None
    assert np.isnan(board.wins[hole]).all()
    assert board.equal_compute is None
    assert board.order[-1] == hole
    assert any("withheld" in note for note in board.notes)
    assert np.isfinite(board.task_mean[hole]).all()  # what there is, is shown


def test_costs_are_relative_to_plain_kd(board: Leaderboard) -> None:
    names = board.selection.labels
    assert board.costs.relative_seconds[names.index("fixed_alpha")] == pytest.approx(1.0)
    assert board.costs.relative_passes[names.index("rw_kd")] == pytest.approx(2.6)
    assert board.costs.relative_seconds[names.index("rw_kd")] == pytest.approx(2.6, rel=0.05)


def test_equal_compute_gives_the_dear_one_fewer_trials(board: Leaderboard) -> None:
    assert board.equal_compute is not None
    names = board.selection.labels
    # its first trial alone takes more passes than both trials of plain KD
    assert np.isnan(board.equal_compute[names.index("rw_kd")])
    # two trials of as many passes fit
    assert board.equal_compute[names.index("kd_only")] == pytest.approx(board.mean_score.value[names.index("kd_only")])


def test_equal_compute_does_not_follow_the_clock(board: Leaderboard) -> None:
    drawn = np.random.default_rng(0)
    records = [
        record.model_copy(update={"cost": record.cost.model_copy(update={"train_seconds": float(drawn.uniform(1, 100))})})
        for record in board.selection.records
    ]
    again = equal_compute_scores(replace(board.selection, records=records), ("cola", "mnli", "rte"))
    np.testing.assert_array_equal(again, board.equal_compute)


def test_seconds_of_stacked_trials_are_said_to_be_of_all_of_them(board: Leaderboard) -> None:
    records = list(board.selection.records)
    records[0] = records[0].model_copy(update={"cost": records[0].cost.model_copy(update={"stacked": 4})})
    found = [legend(one) for one in (board, replace(board, selection=replace(board.selection, records=records)))]
    assert [any(said.startswith("Stacked trials") for said in one) for one in found] == [False, True]


def test_one_seed_one_trial_two_strategies(tmp_path: Path) -> None:
    build_store(tmp_path, Planted(("sst2",), ("fixed_alpha", "rw_kd"), repeats=1, trials=1, rows=50))
    board = make_leaderboard(tmp_path, draws=100)
    assert np.isnan(board.task_spread).all()
    assert np.isnan(board.normalised).all()
    assert board.ranking is None
    assert any("ce_only" in note for note in board.notes)
    assert np.isfinite(board.p_mcnemar[1, 0])  # of one repeat
    assert any("allow no p below" in said for said in legend(board))


def test_an_older_store_makes_a_leaderboard() -> None:
    board = make_leaderboard(Path(__file__).parents[1] / "fixtures" / "store_v1", draws=50)
    assert np.isfinite(board.task_mean[board.selection.labels.index("fixed_alpha"), 0])
