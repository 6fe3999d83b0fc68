"""Two real processes: gathering, sums, and parameters without a gradient. Whole trainings on two: test_every_strategy.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.training.trial import train_trial
from tests.harness.models.families import ENCODERS
from tests.harness.tiny import default_specs, tiny_study
from tests.harness.two_workers import run_on_two_workers

BODY = """
own = torch.arange(ranks.rank * 10, ranks.rank * 10 + 3 + ranks.rank)
assert ranks.gather_rows(own).tolist() == [0, 1, 2, 10, 11, 12, 13]
wide = own.expand(2, -1).float()
assert ranks.gather_rows(wide, dim=1).shape == (2, 7)
from harness.ranks import of_all_ranks, own_rows
for rows in (5, 1):  # of a single row, one rank has none
    whole = {"a": torch.randn(2, rows), "b": torch.arange(rows), "c": torch.randn(rows) > 0, "d": torch.randn(rows).half()}
    dist.broadcast_object_list(shared := [whole])
    (whole,) = shared
    mine = {name: values[..., own_rows(rows, ranks)] for name, values in whole.items()}
    found = of_all_ranks(mine, rows, ranks)
    assert all(torch.equal(found[name], values) and found[name].dtype == values.dtype for name, values in whole.items())
total = torch.tensor([1.0 + ranks.rank])
ranks.sum_([total])
assert total.item() == 3.0
# sum over all pairs of rows of both ranks of x_i * x_j: its gradient is twice the sum of all rows, on either rank
mine = own.float().requires_grad_()
everyone = ranks.gather_with_gradient(mine)
assert everyone.tolist() == [0, 1, 2, 10, 11, 12, 13]
(mine[:, None] * everyone[None, :]).sum().backward()
assert mine.grad.tolist() == [98.0] * len(own)
"""


def test_rows_are_gathered_and_tensors_summed_over_the_ranks() -> None:
    run_on_two_workers(BODY)


PAST_THE_HEAD = '''
"""A loss of the student's pooled vector alone, which tells of it and which does not."""

from harness.loss_terms import LossTerm, TermNeeds, TermOptions, register_term
from strategies import Normalisation, Settings, Strategy, register
from strategies.base import Needs


class Options(TermOptions):
    declared: bool = True
    """Whether the term says that it does not come through the head."""


@register_term
class ShortVector(LossTerm[Options]):
    """Mean square of the pooled vector."""

    name = "short_vector"
    summary = "mean square of the pooled vector"
    Options = Options

    @classmethod
    def needs(cls, options):
        return TermNeeds(student_features=True, bypasses_head=options.declared)

    def __call__(self, inputs):
        return inputs.student_features.square().mean(-1)


class PastTheHeadSettings(Settings):
    declared: bool = True
    """Likewise."""


@register
class PastTheHead(Strategy[PastTheHeadSettings]):
    name = "past_the_head"
    family = "test"
    summary = "no logits in the loss"
    paper = "none"
    sample_wise = False
    normalisation = Normalisation.FREE
    Settings = PastTheHeadSettings

    @classmethod
    def needs(cls, settings):
        return Needs(terms=("short_vector",), term_options={"short_vector": {"declared": settings.declared}})

    def weights(self, context):
        return {"short_vector": 1.0}
'''
TRAIN = """
import json
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from harness.ranks import UnusedParametersError
from harness.records import TrialSpec
from harness.training.trial import train_trial

folder, searched = Path(sys.argv[1]), []
plain = DistributedDataParallel.__init__
def noted(self, *given, find_unused_parameters, **named):
    searched.append(find_unused_parameters)
    plain(self, *given, find_unused_parameters=find_unused_parameters, **named)
DistributedDataParallel.__init__ = noted
found = {}
for path in sorted(folder.glob("*.spec")):
    try:
        record = train_trial(TrialSpec.model_validate_json(path.read_text()), folder, ranks).record
        losses = [epoch.train_loss for epoch in record.epochs]
    except UnusedParametersError as error:
        losses = str(error)
    found[path.stem] = [searched.pop(), losses]
(folder / f"{ranks.rank}.json").write_text(json.dumps(found))
"""


def test_unused_parameters_are_searched_for_where_declared_alone(tmp_path: Path) -> None:
    """Plain KD goes without; a term past the head says so; so does a model with a parameter of no use. What nobody declared
    ends both workers, with its name."""
    plugin = tmp_path / "past_the_head.py"
    plugin.write_text(PAST_THE_HEAD)
    undeclared = {"name": "past_the_head", "label": "undeclared", "settings": {"declared": False}}
    few = {
        "data": {"source": "generated", "generated": {"train_rows": 60, "report_rows": 20}, "max_length": 16},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
    }
    study = tiny_study(strategies=["fixed_alpha", "past_the_head", undeclared], plugins=[str(plugin)], **few)
    specs = {spec.label: spec for spec in default_specs(study, tmp_path)}
    xlnet = {"model_type": "xlnet", **ENCODERS["xlnet"]}  # its vector of masked words
    models = {**study.models.model_dump(exclude_unset=True), "student": {"config": xlnet, "dropout": 0.0}}
    (specs["xlnet"],) = default_specs(tiny_study(models=models, **few), tmp_path)
    for name, spec in specs.items():
        (tmp_path / f"{name}.spec").write_text(spec.model_dump_json())
    run_on_two_workers(TRAIN, str(tmp_path))
    found = json.loads((tmp_path / "0.json").read_text())
    assert found == json.loads((tmp_path / "1.json").read_text())
    assert {name: searched for name, (searched, _) in found.items()} == {
        "fixed_alpha": False, "past_the_head": True, "undeclared": False, "xlnet": True,
    }  # fmt: skip
    said = found.pop("undeclared")[1]
    assert "classifier.weight" in said
    assert "bypasses_head=True" in said
    for name, (_, losses) in found.items():
        alone = [epoch.train_loss for epoch in train_trial(specs[name], tmp_path).record.epochs]
        assert losses == pytest.approx(alone, rel=1e-4), name
