"""Two processes with equal shares of every batch, under DDP, train the student that one process trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.harness.library.beside import Beside, Step, assert_same, spec_of
from tests.harness.two_workers import run_on_two_workers

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
