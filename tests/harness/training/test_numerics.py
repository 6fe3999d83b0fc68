"""What is fast and changes numbers, changes results by this much and no more: buckets, bf16, the fused optimiser, differences.

Each is trained to the end, with and without; what is compared is the finished student's probabilities on the report rows.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.batches import LengthBucketedBatches
from harness.models.build import build_model
from harness.models.evaluate import predict
from harness.study.schema import ModelSpec
from harness.training import loop as training
from harness.training.trial import train_trial
from tests.benchmarks.setting import MINILM, glue_rows, make_training
from tests.harness.tiny import STUDENT, TEACHER, default_specs, tiny_study

LOGGER = logging.getLogger(__name__)  # `--log-cli-level=INFO` shows the measured differences
ROWS = {"source": "generated", "generated": {"train_rows": 1000, "report_rows": 200, "flipped": 0.1}, "max_length": 32}
RECIPE = {"epochs": 3, "batch_size": 32, "learning_rate": 5e-3, "meta_batch_size": 32}
REPEATS, SEEDS = 6, 4
"""Of the generated rows, and of the real ones."""
MODELS = {
    "teachers": [{"config": TEACHER, "training": {"epochs": 4, "learning_rate": 3e-3}}],
    "student": {"config": STUDENT | {"hidden_size": 32}, "dropout": 0.0},
}


def probabilities(cache: Path, strategy: Any = "fixed_alpha", repeats: int = 1, **recipe: Any) -> np.ndarray:
    """[repeats, report rows]: of the second class."""
    study = tiny_study(
        strategies=[strategy],
        data=ROWS,
        models=MODELS,
        training=RECIPE | recipe,
        search={"trials": 1, "repeats": repeats},
    )
    found = [train_trial(spec, cache).predictions for spec in default_specs(study, cache)]
    return np.stack([predictions["p1"].to_numpy() for predictions in found])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plain(cache: Path) -> np.ndarray:
    found = probabilities(cache, repeats=REPEATS)
    LOGGER.info("standard deviation of a probability: %.2f", found.std())
    assert found.std() > 0.2  # the students have learned to tell rows apart
    return found


def greatest(first: np.ndarray, second: np.ndarray) -> float:
    found = float(np.abs(first - second).max())
    LOGGER.info("greatest difference of a probability: %.2g", found)
    return found


def between_seeds(found: np.ndarray) -> float:
    """Mean difference of a probability between two repeats."""
    return float(np.mean([np.abs(found[i] - found[j]).mean() for i in range(len(found)) for j in range(i)]))


def rw_kd(cache: Path, engine: str) -> np.ndarray:
    return probabilities(cache, {"name": "rw_kd", "settings": {"engine": engine}}, repeats=2)


@pytest.mark.slow
def test_the_fused_optimiser_changes_rounding_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = probabilities(cache)
    assert fused.std() > 0.2  # the student has learned to tell rows apart
    adamw = torch.optim.AdamW
    one_by_one = {"fused": False, "foreach": False}
    monkeypatch.setattr(torch.optim, "AdamW", lambda *given, **options: adamw(*given, **options | one_by_one))
    assert 0 < greatest(probabilities(cache), fused) < 1e-3  # 3e-5 measured


@pytest.fixture(scope="module")
def exact(cache: Path) -> np.ndarray:
    return rw_kd(cache, "exact")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "bound", "share"), [("fd", 0.05, 0.99), ("jvp", 0.001, 1.0)])  # 0.01 and 3e-5 measured
def test_look_ahead_engines_train_the_same_student(
    cache: Path, exact: np.ndarray, engine: str, bound: float, share: float
) -> None:
    """`share` of the rows within 0.02: a finite difference's rounding moves one of them by 0.0205 on some processors."""
    of_one_seed = np.abs(rw_kd(cache, engine) - exact)
    LOGGER.info("differences: one seed %.2g, two seeds %.2g", of_one_seed.mean(), between_seeds(exact))
    LOGGER.info("of single rows: 99 %% within %.2g, greatest %.2g", np.quantile(of_one_seed, 0.99), of_one_seed.max())
    assert 0 < of_one_seed.mean() < bound * between_seeds(exact)
    assert np.quantile(of_one_seed, share) < 0.02


@pytest.mark.slow
def test_bf16_is_less_than_another_seed(cache: Path, plain: np.ndarray) -> None:
    half = probabilities(cache, repeats=REPEATS, precision="bf16")
    of_one_seed = np.abs(half - plain).mean()
    of_two_seeds = between_seeds(plain)
    of_means = np.abs(half.mean(0) - plain.mean(0)).mean()
    LOGGER.info("differences: one seed %.3f, two seeds %.3f, means %.3f", of_one_seed, of_two_seeds, of_means)
    assert 0 < of_one_seed < 0.7 * of_two_seeds  # 0.054 and 0.131 measured
    assert of_means < 0.4 * of_two_seeds  # 0.027


@pytest.mark.slow
def test_buckets_cost_nothing_on_real_text(tmp_path: Path, real_glue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = glue_rows("sst2", 1600, tmp_path, max_length=64, report_rows=800)
    right: dict[type, list[float]] = {LengthBucketedBatches: [], Shuffled: []}
    for seed in range(SEEDS):
        for order, scores in right.items():
            monkeypatch.setattr(training, "LengthBucketedBatches", order)
            model = build_model(ModelSpec(model=MINILM, layers=[0, 2, 4]), 2, seed, rows.vocabulary)
            one = make_training(rows, "ce_only", precision="bf16", epochs=3, model=model, seed=seed)
            one.run()
            logits = predict(one.model, rows.report, np.arange(len(rows.report.ids))).logits
            scores.append(float(np.mean(logits.argmax(-1).numpy() == rows.report.labels)))
    difference = np.subtract(right[LengthBucketedBatches], right[Shuffled])
    LOGGER.info("accuracy in buckets minus shuffled: %s", difference.round(3))
    assert abs(difference.mean()) < 0.02  # two standard errors of four seeds


@pytest.mark.slow
def test_buckets_cost_little_where_length_tells_the_kind_of_row(
    cache: Path, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generated text: its negations are longer, so that a batch of one length has rows of one kind, and teaches less."""
    monkeypatch.setattr(training, "LengthBucketedBatches", Shuffled)
    shuffled = probabilities(cache, repeats=REPEATS)
    sure = [np.abs(found - 0.5).mean() for found in (plain, shuffled)]
    LOGGER.info("sureness: %.3f in buckets, %.3f shuffled", *sure)
    assert abs(sure[0] - sure[1]) < 0.1
    assert np.mean((plain > 0.5) == (shuffled > 0.5)) > 0.75


class Shuffled:
    """Batches of rows in random order, whatever their lengths."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self._rows, self._batch_size, self._seed = len(lengths), batch_size, seed

    def epoch(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        return np.array_split(order, -(-self._rows // self._batch_size))
