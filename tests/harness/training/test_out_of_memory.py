"""A step that does not fit into memory is repeated in micro-batches, and nothing but the memory it takes is different."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from harness.data.batch import Batch
from harness.models.build import build_model, run_batch
from harness.models.student_pass import StudentPass
from harness.records import EpochRecord, TrialRecord, TrialSpec
from harness.study.schema import ModelSpec
from harness.training.failures import classify
from harness.training.out_of_memory import OutOfMemoryError
from harness.training.peak_memory import peak_bytes, reset_peak
from harness.training.trial import train_trial
from tests.conftest import PROJECT
from tests.harness.tiny import STUDENT, TEACHER, VARIED, default_specs, tiny_study
from tests.harness.two_workers import run_on_two_workers

EXTRA = ["layer_kd", "relational_kd", "word_kd", "part_kd"]
"""relational_kd compares the samples of the whole batch, whatever parts it was passed in. Of models that are not VARIED it is
0 but for rounding."""
STRATEGIES: list[Any] = [
    "fixed_alpha",
    "wsl",
    "random_weights",
    "gradnorm",
    "uncertainty",
    "rw_kd",
    {"name": "rw_kd", "label": "rw_kd exact", "settings": {"engine": "exact", "reading": "per_sample"}},
    {"name": "rw_kd", "label": "rw_kd jvp", "settings": {"engine": "jvp"}},
    "relational_kd",
    {"name": "dwa", "label": "dwa extra", "settings": {"extra_terms": EXTRA}},
    {"name": "gradnorm", "label": "gradnorm extra", "settings": {"extra_terms": EXTRA}},
]
LABELS = [entry if isinstance(entry, str) else entry["label"] for entry in STRATEGIES]
ON_TWO_WORKERS = ["rw_kd", "gradnorm extra"]
"""With these, every kind of pass and of exchange is there."""
FAST = {"rw_kd", "gradnorm extra"}
TRAIN_ALL = """
from pathlib import Path
from harness.records import TrialSpec
from harness.training.trial import train_trial

cache = Path(sys.argv[1])
for line in (cache / "specs.jsonl").read_text().splitlines():
    spec = TrialSpec.model_validate_json(line)
    record = train_trial(spec, cache, ranks, micro_batches=3).record
    if ranks.rank == 0:
        (cache / f"{spec.key}.json").write_text(record.model_dump_json())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, TrialSpec]]:
    cache = tmp_path_factory.mktemp("memory")
    study = tiny_study(
        strategies=STRATEGIES,
        models={
            "student": {"config": {**STUDENT, **VARIED}, "dropout": 0.0},
            "teachers": [{"config": {**TEACHER, **VARIED}, "training": {"epochs": 1, "learning_rate": 1e-3}}],
        },
        data={"source": "generated", "generated": {"train_rows": 90, "report_rows": 20}, "max_length": 24},
    )
    return cache, {spec.label: spec for spec in default_specs(study, cache)}


class Undisturbed(dict[str, TrialRecord]):
    """By label; a strategy is trained when its record is asked for first."""

    def __init__(self, cache: Path, specs: dict[str, TrialSpec]) -> None:
        self.cache, self.specs = cache, specs

    def __missing__(self, label: str) -> TrialRecord:
        return self.setdefault(label, train_trial(self.specs[label], self.cache).record)


@pytest.fixture(scope="module")
def whole(world: tuple[Path, dict[str, TrialSpec]]) -> dict[str, TrialRecord]:
    return Undisturbed(*world)


@contextmanager
def room_for(rows: int, monkeypatch: pytest.MonkeyPatch, *, going: str = "forward", from_pass: int = 0) -> Iterator[list[int]]:
    """Passes of more than `rows` samples that keep a graph meet the allocator's error, forward or backward.

    Yields the sizes of the passes that were tried.
    """
    import harness.models.student_pass as student_pass

    tried: list[int] = []

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def measured(model: Any, batch: Batch, *rest: Any) -> Any:
        outputs = run_batch(model, batch, *rest)
        if torch.is_grad_enabled():
            tried.append(len(batch.ids))
            if len(batch.ids) > rows and len(tried) > from_pass:
                if going == "forward":
                    full()
                outputs.logits.register_hook(lambda gradient: full())
        return outputs

    with monkeypatch.context() as patched:
        patched.setattr(student_pass, "run_batch", measured)
        yield tried


def assert_same(one: TrialRecord, other: TrialRecord, rel: float = 2e-4) -> None:
    for mine, theirs in zip(one.epochs, other.epochs, strict=True):
        assert theirs.train_loss == pytest.approx(mine.train_loss, rel=rel)
        for term, weights in mine.weights.items():
            assert theirs.weights[term].quantiles == pytest.approx(weights.quantiles, abs=1e-3)


@pytest.mark.parametrize(
    ("label", "going"),
    [
        *(pytest.param(label, "backward", marks=() if label in FAST else pytest.mark.slow) for label in LABELS),
        ("wsl", "forward"),
        pytest.param("rw_kd", "forward", marks=pytest.mark.slow),
    ],
)
def test_a_step_that_does_not_fit_is_repeated_in_micro_batches(
    label: str, going: str, world: Any, whole: dict[str, TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, specs = world
    with room_for(4, monkeypatch, going=going, from_pass=2):
        record = train_trial(specs[label], cache).record
    assert record.status == "ok"
    assert {epoch.micro_batches for epoch in record.epochs} == {4}  # of 14 or 15 samples
    assert {epoch.micro_batches for epoch in whole[label].epochs} == {1}
    assert_same(whole[label], record)


@pytest.mark.parametrize("label", ["fixed_alpha", "rw_kd"])
def test_in_half_precision_the_second_forward_pass_is_as_the_first(label: str, world: Any) -> None:
    """Without dropout attention may be the fused kernel's, in a pass and, or else, where it is repeated on the way back."""
    cache, specs = world
    spec = specs[label].model_copy(update={"training": specs[label].training.model_copy(update={"precision": "bf16"})})
    split, known = (train_trial(spec, cache, micro_batches=count).record for count in (2, 1))
    assert {epoch.micro_batches for epoch in split.epochs} == {2}
    assert_same(known, split, rel=2e-3)


def test_the_second_forward_pass_is_counted(world: Any, whole: dict[str, TrialRecord]) -> None:
    cache, specs = world
    for label in ("fixed_alpha", "gradnorm", "rw_kd"):
        cost, split = whole[label].cost, train_trial(specs[label], cache, micro_batches=2).record.cost
        assert split.student_backward == cost.student_backward
        assert split.student_forward == cost.student_forward + cost.student_backward


@pytest.mark.parametrize(
    "label", ["fixed_alpha", *(pytest.param(label, marks=pytest.mark.slow) for label in ("rw_kd", "random_weights"))]
)
def test_dropout_masks_and_the_strategys_state_are_those_of_a_step_that_fitted_at_once(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = {"config": STUDENT, "dropout": 0.3}
    study = tiny_study(strategies=[label], models={"student": student, "teachers": [{"config": TEACHER}]})
    (spec,) = default_specs(study, tmp_path)
    known = train_trial(spec, tmp_path, micro_batches=4)
    with room_for(4, monkeypatch, going="backward"):
        found = train_trial(spec, tmp_path)
    assert [e.model_dump(exclude={"seconds"}) for e in found.record.epochs] == [
        e.model_dump(exclude={"seconds"}) for e in known.record.epochs
    ]
    assert found.predictions.equals(known.predictions)


def test_gradients_are_those_of_the_masks_that_the_losses_saw() -> None:
    """Against one pass with the same masks, made by hand: the parts one after another."""
    model = build_model(ModelSpec(config=STUDENT, dropout=0.5), 2, 0, 30)
    rows = torch.randint(5, 30, (6, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(rows)
    batch = Batch(
        torch.arange(6), torch.zeros(6).long(), {"input_ids": rows, "attention_mask": mask}, torch.zeros(0, 6, 2), None, 6
    )
    student = StudentPass(model)
    student.micro_batches = 2
    gradients = []
    for run in (
        lambda: student(batch, False, False).logits,
        lambda: torch.cat([run_batch(model, b).logits for b in batch.split(2)]),
    ):
        torch.manual_seed(5)
        model.zero_grad()
        logits = run()
        after = torch.get_rng_state()
        logits.square().sum().backward()
        assert torch.equal(torch.get_rng_state(), after)
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_two_workers_in_micro_batches_train_as_one(world: Any, whole: dict[str, TrialRecord]) -> None:
    cache, specs = world
    (cache / "specs.jsonl").write_text("\n".join(specs[label].model_dump_json() for label in ON_TWO_WORKERS))
    run_on_two_workers(TRAIN_ALL, str(cache))
    for label in ON_TWO_WORKERS:
        record = TrialRecord.model_validate_json((cache / f"{specs[label].key}.json").read_text())
        assert {epoch.micro_batches for epoch in record.epochs} == {3}
        assert_same(whole[label], record)


def test_a_resumed_training_goes_on_with_the_micro_batches_that_it_needed(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, specs = world

    def first_epoch(record: EpochRecord, write: Any) -> None:
        if record.epoch == 0:
            write(tmp_path / "checkpoint")

    with room_for(8, monkeypatch):
        undisturbed = train_trial(specs["wsl"], cache, on_epoch=first_epoch)
    with room_for(8, monkeypatch) as tried:
        resumed = train_trial(specs["wsl"], cache, resume_from=tmp_path / "checkpoint")
    assert max(tried) <= 8  # it did not have to find out again
    assert resumed.predictions.equals(undisturbed.predictions)


def test_where_single_samples_do_not_fit_the_failure_says_so(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, specs = world
    with room_for(0, monkeypatch) as tried, pytest.raises(OutOfMemoryError, match="single ones: CUDA out of memory") as raised:
        train_trial(specs["fixed_alpha"], cache)
    assert tried[-1] == 1
    assert classify(raised.value).kind == "out_of_memory"


def test_other_errors_are_not_taken_for_want_of_memory(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, specs = world
    import harness.models.student_pass as student_pass

    def broken(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(student_pass, "run_batch", broken)
    with pytest.raises(RuntimeError, match="mat1") as raised:
        train_trial(specs["fixed_alpha"], cache)
    assert classify(raised.value).kind == "bug"


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from harness.records import TrialSpec
from harness.training.trial import train_trial

torch.backends.mkldnn.enabled = False  # it maps memory of its own and does not say that it got none
spec = TrialSpec.model_validate_json(Path(sys.argv[2]).read_text())
small = spec.model_copy(update={"training": spec.training.model_copy(update={"batch_size": 2, "epochs": 1})})
train_trial(small, Path(sys.argv[1]))  # all libraries are loaded and warm
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[3]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
record = train_trial(spec, Path(sys.argv[1])).record
print(record.epochs[-1].micro_batches, record.epochs[-1].train_loss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_the_operating_system_refuses_memory_and_the_training_goes_on(tmp_path: Path) -> None:
    """No error is pretended here: the process may map a few megabytes more, and PyTorch's allocator fails."""
    config = {**STUDENT, "hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 2}
    study = tiny_study(
        models={"student": {"config": config, "dropout": 0.0}, "teachers": [{"config": TEACHER, "training": {"epochs": 1}}]},
        data={"source": "generated", "generated": {"train_rows": 300, "report_rows": 20}, "max_length": 64},
        training={"epochs": 1, "batch_size": 192, "learning_rate": 1e-3},
    )
    (spec,) = default_specs(study, tmp_path)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    # megabytes; a whole step takes 54 to 60, which 50 let pass now and then
    arguments = [str(tmp_path), str(tmp_path / "spec.json"), "30"]
    # each thread's arena reserves 64 MB, which count as mapped and are lent to others in need
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    found = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    micro_batches, loss = found.stdout.split()
    assert int(micro_batches) > 1
    assert "out of memory: batches of" in found.stderr
    assert float(loss) == pytest.approx(train_trial(spec, tmp_path).record.epochs[0].train_loss, rel=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak")
def test_the_peak_of_one_trial_is_not_that_of_the_trial_before() -> None:
    reset_peak(torch.device("cpu"))
    large = torch.ones(100 * 2**20 // 4)
    with_large = peak_bytes(torch.device("cpu"))
    del large
    reset_peak(torch.device("cpu"))
    assert peak_bytes(torch.device("cpu")) < with_large - 90 * 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc keeps")
def test_what_a_trials_thread_has_freed_is_given_back() -> None:
    kept = []

    def trial() -> None:
        pieces = [b"x" * (60_000 + size) for size in range(3000)]  # too small for pages of their own
        kept.extend(pieces[::100])  # between the others, so that the heap cannot shrink from its end

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    before = psutil.Process().memory_info().rss
    reset_peak(torch.device("cpu"))
    assert psutil.Process().memory_info().rss < before - 100 * 2**20
