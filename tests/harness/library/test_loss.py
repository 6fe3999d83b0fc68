"""A loop of one's own with `StrategyLoss` trains as the harness does, and says what is wrong where it cannot."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from harness.library import StrategyLoss
from tests.harness.library.beside import Beside, Step, assert_same, spec_of
from tests.harness.two_workers import run_on_two_workers

# what each asks of a training: logits; a temperature a sample; the epoch's end; tokens; gradients of terms; a look-ahead by
# itself and with the student's Adam; a meta set; the student's features, several teachers and replays
STRATEGIES: list[tuple[str, int]] = [
    ("wsl", 1),
    ("ctkd", 1),
    ("dwa", 1),
    ("word_importance", 1),
    ("mgda", 1),
    ("rw_kd", 1),
    ("l2rw", 1),
    ("weighted_ensemble", 2),
    ("rl_kd", 2),
]


def make(tmp_path: Path, strategy: str, teachers: int = 1) -> Beside:
    return Beside(spec_of(strategy, tmp_path, teachers), tmp_path)


@pytest.mark.parametrize(("strategy", "teachers"), STRATEGIES, ids=[name for name, _ in STRATEGIES])
def test_every_step_is_the_harness_s_own(strategy: str, teachers: int, tmp_path: Path) -> None:
    beside = make(tmp_path, strategy, teachers)
    by_hand = beside.by_hand(beside.loss())
    harness = beside.of_harness()
    assert_same(by_hand, harness)
    assert len({round(float(step["loss"]), 6) for step in harness}) > 1


@pytest.mark.parametrize("strategy", ["dwa", "rw_kd"])
def test_a_state_that_went_through_a_file_goes_on_as_if_nothing_had_been(strategy: str, tmp_path: Path) -> None:
    beside = make(tmp_path, strategy)
    first, middle = beside.loss(), beside.total_steps // 2 + 1
    steps = beside.by_hand(first, last=middle)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    rest = beside.loss(seed=99)
    rest.load_state_dict(torch.load(file, weights_only=True))
    steps += beside.by_hand(rest, first=middle)
    whole = make(tmp_path, strategy)
    generator_free = whole.by_hand(whole.loss(), last=middle)
    assert_same(steps[:middle], generator_free)
    assert rest.step == beside.total_steps
    assert rest.epoch == beside.epochs
    with pytest.raises(ValueError, match="the state is of strategy"):
        rest.load_state_dict({**first.state_dict(), "name": "wsl"})


def test_logits_alone_will_do_where_the_strategy_wants_no_more(tmp_path: Path) -> None:
    beside = make(tmp_path, "rw_kd")
    loss = beside.loss()
    batch = next(iter(beside.loader(0)))
    ids, labels = batch.pop("id"), batch.pop("labels")
    with loss.forward_pass(1e-3):
        logits = beside.model(**batch).logits
    with pytest.raises(ValueError, match=r"logits are in torch\.bfloat16, and the look-ahead passes it in fp32"):
        loss(logits.bfloat16(), batch, ids, labels)
    value = loss(logits, batch, ids, labels)
    assert loss.last is not None
    by_formula = sum((loss.last.terms[name] * loss.last.weights[name]).mean() for name in ("ce", "kd"))
    torch.testing.assert_close(value.detach(), by_formula)
    value.backward()  # type: ignore[no-untyped-call]
    assert beside.model.classifier.weight.grad is not None
    assert loss.passes["forward"] > 0


def test_micro_batches_change_no_number(tmp_path: Path) -> None:
    spec = spec_of("l2rw", tmp_path, dropout=0.0)
    whole, parts = Beside(spec, tmp_path), Beside(spec, tmp_path)
    steps = whole.by_hand(whole.loss(), last=3), parts.by_hand(parts.loss(micro_batches=4), last=3)
    assert_same(*steps, of_weights=2e-3)  # a finite difference magnifies rounding


def test_what_it_cannot_do_is_refused_in_a_sentence(tmp_path: Path) -> None:
    beside = make(tmp_path, "rw_kd")
    given = {**beside.options, "total_steps": 10}
    rows = beside.train_rows
    half = torch.nn.Module.to(make(tmp_path, "rw_kd").model, torch.bfloat16)
    for name, changes, said in (
        ("rw_kdd", {}, "Did you mean 'rw_kd'"),
        ("rw_kd", {"meta": None}, "give `meta="),
        ("rw_kd", {"meta": rows}, "rows that are not trained on"),
        ("rw_kd", {"settings": {"engin": "fd"}}, "there is no such setting. Did you mean 'engine'"),
        ("wsl", {"settings": {}, "temperature": 0.0}, "it must be above 0"),
        ("wsl", {"settings": {}, "total_steps": 0}, "an epoch has a step at least"),
        ("wsl", {"settings": {}, "precision": "fp16"}, "it can be 'fp32' or 'bf16'"),
        ("universal_kd", {"settings": {}}, "which only a study prepares"),
        ("rw_kd", {"model": half}, "load the student with dtype=torch.float32"),
    ):
        with pytest.raises(ValueError, match=said):
            StrategyLoss(name, changes.pop("model", beside.model), **{**given, **changes})


def test_steps_out_of_order_are_refused_and_accumulation_is_told_of_micro_batches(tmp_path: Path) -> None:
    beside = make(tmp_path, "wsl")
    loss = beside.loss()
    batch = next(iter(beside.loader(0)))
    ids, labels = batch.pop("id"), batch.pop("labels")
    logits = beside.model(**batch).logits
    with pytest.raises(ValueError, match="without a pass in `forward_pass`"):
        loss(logits, batch, ids, labels)
    with pytest.raises(ValueError, match="is none of the training rows"):
        loss.run(batch, ids + 10**6, labels, 1e-3)
    loss.run(batch, ids, labels, 1e-3)
    with pytest.raises(ValueError, match="micro_batches=N"):
        loss.run(batch, ids, labels, 1e-3)
    with pytest.raises(ValueError, match="micro_batches=N"):
        loss(logits, batch, ids, labels)
    for _ in range(beside.total_steps - 1):
        loss.after_step()
        loss.run(batch, ids, labels, 1e-3)
    loss.after_step()
    with pytest.raises(ValueError, match="said to have total_steps"):
        loss.run(batch, ids, labels, 1e-3)


STEPS = 4
TRAIN = """
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from harness.records import TrialSpec
from tests.harness.library.beside import Beside, step_of

folder = Path(sys.argv[1])
beside = Beside(TrialSpec.model_validate_json((folder / "spec.json").read_text()), folder)
wrapped = DistributedDataParallel(beside.model, find_unused_parameters=True)
loss, steps = beside.loss(), []
beside.model.train()
for batch in list(beside.loader(0))[:int(sys.argv[2])]:
    half = len(batch["id"]) // 2
    mine = {name: tensor[ranks.rank * half : (ranks.rank + 1) * half] for name, tensor in batch.items()}
    ids, labels = mine.pop("id"), mine.pop("labels")
    value, _ = loss.run(mine, ids, labels, beside.scheduler.get_last_lr()[0], wrapped)
    value.backward()
    step = step_of(loss.last)
    ranks.sum_([step["loss"]])
    steps.append(step)
    torch.nn.utils.clip_grad_norm_(beside.model.parameters(), beside.spec.training.clip_norm)
    beside.optimizer.step()
    beside.scheduler.step()
    beside.optimizer.zero_grad(set_to_none=True)
    loss.after_step()
if ranks.rank == 0:
    torch.save({"steps": steps, "head": beside.model.classifier.weight.detach()}, folder / "steps.pt")
try:
    loss.run({name: tensor[: 3 + 4 * ranks.rank] for name, tensor in mine.items()}, ids[: 3 + 4 * ranks.rank], labels, 1e-3)
except ValueError as error:
    assert "the processes have [3, 7] rows" in str(error), error
else:
    raise AssertionError("unequal shares were not refused")
"""
"""Of two processes with equal shares of every batch, under DDP."""


@pytest.mark.slow
def test_two_processes_train_as_one_and_unequal_shares_are_refused(tmp_path: Path) -> None:
    spec = spec_of("rw_kd", tmp_path, dropout=0.0)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    one = Beside(spec, tmp_path)
    steps = one.by_hand(one.loss(), last=STEPS)
    assert len(steps[0]["ids"]) % 2 == 0
    run_on_two_workers(TRAIN, str(tmp_path), str(STEPS))
    found = torch.load(tmp_path / "steps.pt", weights_only=True)
    two: list[Step] = found["steps"]
    assert_same(two, steps, of_weights=1e-4)
    torch.testing.assert_close(found["head"], one.model.classifier.weight.detach(), rtol=1e-3, atol=1e-5)
