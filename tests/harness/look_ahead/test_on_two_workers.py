"""The look-ahead's step is taken by both workers or by none, whatever each one's own weights are."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records import TrialRecord
from harness.training.trial import train_trial
from tests.harness.tiny import default_specs, tiny_study
from tests.harness.two_workers import run_on_two_workers

LOPSIDED = '''
"""Large weights for the first half of a batch, which one of two workers has; small ones for the other's."""

import torch

from strategies import Normalisation, Settings, Strategy, register
from strategies.base import Needs


@register
class Lopsided(Strategy[Settings]):
    name = "lopsided"
    family = "test"
    summary = "large weights in the first half of a batch"
    paper = "none"
    sample_wise = True
    normalisation = Normalisation.FREE

    @classmethod
    def needs(cls, settings):
        return Needs(look_ahead="fd", look_ahead_options={"shortest_step": 5e-4})

    def weights(self, context):
        rows = len(context.labels)
        weights = torch.where(torch.arange(rows) < rows / 2, 1.0, 0.1)
        influence = context.look_ahead({"ce": weights, "kd": weights})
        return {"ce": weights * (1 + influence["ce"].tanh()), "kd": weights}
'''
TRAIN = """
from pathlib import Path
from harness.records import TrialSpec
from harness.training.trial import train_trial

cache = Path(sys.argv[1])
outcome = train_trial(TrialSpec.model_validate_json((cache / "spec.json").read_text()), cache, ranks)
if ranks.rank == 0:
    (cache / "record.json").write_text(outcome.record.model_dump_json())
"""


@pytest.mark.slow
def test_a_step_that_one_worker_s_own_weights_do_not_ask_for(tmp_path: Path) -> None:
    plugin = tmp_path / "lopsided.py"
    plugin.write_text(LOPSIDED)
    (spec,) = default_specs(tiny_study(strategies=["lopsided"], plugins=[str(plugin)]), tmp_path)
    one = train_trial(spec, tmp_path).record
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    run_on_two_workers(TRAIN, str(tmp_path), timeout=60)
    two = TrialRecord.model_validate_json((tmp_path / "record.json").read_text())
    assert two.cost.student_backward == one.cost.student_backward
    for mine, theirs in zip(one.epochs, two.epochs, strict=True):
        assert theirs.train_loss == pytest.approx(mine.train_loss, rel=1e-4)
