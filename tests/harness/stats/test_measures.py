from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, recall_score

from harness.stats.bootstrap import interval
from harness.stats.measures import BINS, LEAST, MEASURES, sample_measures
from harness.stats.metrics import class_scores
from harness.stats.paired import Seeds

ALL = np.ones((2, 2), np.bool_)


def runs(rows: int, classes: int = 3, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [rows] and probabilities [2, 2, rows, classes]; what is said is true where `sharpness` is 1."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.2, (rows, classes))
    labels = np.array([rng.choice(classes, p=one) for one in softmax(truth, -1)])
    return labels, softmax(sharpness * (truth + rng.normal(0, 0.01, (2, 2, rows, classes))), -1)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """As it is written in Guo et al. (2017), equation 3, in bins of as many rows."""
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    order = np.argsort(confidence, kind="stable")
    bins = [order[[k * BINS // len(labels) == b for k in range(len(labels))]] for b in range(BINS)]
    return sum(len(rows) / len(labels) * abs(right[rows].mean() - confidence[rows].mean()) for rows in bins if len(rows))


@pytest.mark.parametrize("classes", [2, 3])
def test_measures_are_those_of_sklearn(classes: int) -> None:
    labels, said = runs(200, classes)
    teacher = runs(200, classes, seed=1)[1][0, 0]
    teacher[:3] = np.eye(classes)[0]  # as sure as a store can keep it
    found = sample_measures(labels, said, ALL, 10, Seeds(0, 1), teacher=teacher)
    want = {
        "nll": lambda p: log_loss(labels, p),
        "brier": lambda p: brier_score_loss(labels, p, scale_by_half=False),
        "ece": lambda p: calibration_error(labels, p),
        "macro_f1": lambda p: f1_score(labels, p.argmax(-1), average="macro"),
        "agreement": lambda p: accuracy_score(teacher.argmax(-1), p.argmax(-1)),
        "kl": lambda p: entropy(teacher, p, axis=-1).mean(),
    }
    assert set(want) == set(MEASURES)
    for name, function in want.items():
        np.testing.assert_allclose(found[name].scores, [[function(p) for p in pair] for pair in said], rtol=1e-5)
    recall, f1 = class_scores(labels, said.argmax(-1), classes)
    np.testing.assert_allclose(recall[0, 1], recall_score(labels, said[0, 1].argmax(-1), average=None))
    np.testing.assert_allclose(f1[1, 0], f1_score(labels, said[1, 0].argmax(-1), average=None))


def test_without_what_the_teacher_said_there_is_no_agreement_and_with_itself_there_is_all() -> None:
    labels, said = runs(50)
    assert set(sample_measures(labels, said, ALL, 5, Seeds(0, 1))) == {n for n, m in MEASURES.items() if not m.of_teacher}
    found = sample_measures(labels, said, ALL, 5, Seeds(0, 1), teacher=said[1, 0])
    assert (found["agreement"].scores[1, 0], found["kl"].scores[1, 0]) == (1.0, 0.0)
    assert found["kl"].scores[0, 0] > 0


def test_a_probability_that_the_store_keeps_as_nothing_costs_what_it_could_have_been() -> None:
    labels = np.array([0, 1])
    said = np.broadcast_to(np.array([[0.0, 1.0], [0.0, 1.0]]), (2, 2, 2, 2))
    assert sample_measures(labels, said, ALL, 5, Seeds(0, 1))["nll"].scores[0, 0] == pytest.approx(-np.log(LEAST) / 2)


def test_differences_are_paired_and_missing_runs_have_no_measure() -> None:
    labels, said = runs(300)
    same = np.stack([said[0], said[0]])
    present = np.array([[True, True], [True, False]])
    for sample in sample_measures(labels, same, ALL, 50, Seeds(0, 1)).values():
        np.testing.assert_allclose(sample.contrast(0, 1).draws, 0.0, atol=1e-7)
    for sample in sample_measures(labels, same, present, 50, Seeds(0, 1)).values():
        assert np.isfinite(sample.intervals[:, 0]).all()
        assert np.isnan(sample.intervals[:, 1]).all()


def test_what_is_sharper_than_true_is_worse_calibrated() -> None:
    labels, said = runs(2000)
    _, sharp = runs(2000, sharpness=3.0)
    found = sample_measures(labels, np.stack([sharp[0], said[0]]), ALL, 200, Seeds(0, 1))
    for name in ("nll", "brier", "ece"):
        low, high = interval(found[name].contrast(0, 1).draws)
        assert 0 < low < high
        assert low < found[name].scores[0].mean() - found[name].scores[1].mean() < high
    assert abs(found["macro_f1"].scores[0].mean() - found["macro_f1"].scores[1].mean()) < 0.02  # it says the same classes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("repeats", [1, 3, 5])
def test_intervals_hold_the_truth(repeats: int) -> None:
    """Of each measure and of its difference: what a run of many rows says is true of runs that differ by their noise alone."""
    truth = {name: sample.scores.mean(1) for name, sample in _of_many_rows().items()}
    studies = 5000
    held = {name: [0, 0] for name in truth}
    for seed in range(studies):
        labels, said = _study(600, repeats, seed + 1)
        found = sample_measures(labels, said, np.ones((2, repeats), np.bool_), 1000, Seeds(seed, seed + studies))
        for name, sample in found.items():
            for k, (second, want) in enumerate(((None, truth[name][0]), (1, truth[name][0] - truth[name][1]))):
                low, high = interval(sample.contrast(0, second).draws)
                held[name][k] += low <= want <= high
    for name, counts in held.items():
        for count in counts:
            assert 0.93 <= count / studies <= 0.97, (name, held)


def _study(rows: int, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two strategies, one much too sure and one less so; runs differ a little."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.2, (rows, 3))
    labels = (np.cumsum(softmax(truth, -1), -1) < rng.uniform(size=(rows, 1))).sum(-1)
    noise = rng.normal(0, 0.3, (2, repeats, rows, 3))
    return labels, softmax(np.array([3.0, 2.0])[:, None, None, None] * (truth + noise), -1)


def _of_many_rows() -> dict:
    labels, said = _study(400_000, 1, 0)
    return sample_measures(labels, said, np.ones((2, 1), np.bool_), 2, Seeds(0, 1))
