"""What holds for the training of every strategy: one worker or two, with or without a break, the numbers are the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.loss_terms import needs_of_terms
from harness.records import EpochRecord, TrialRecord, TrialSpec
from harness.training.trial import TrialOutcome, train_trial
from strategies import resolve, strategy_names
from tests.conftest import first_of_each
from tests.harness.tiny import TEACHER, default_specs, tiny_study
from tests.harness.two_workers import run_on_two_workers

BY_ADAMW = {
    "rw_kd_adamw": {"name": "rw_kd", "settings": {"look_ahead": "adamw"}},
    "l2rw_adamw": {"name": "l2rw", "settings": {"look_ahead": "adamw", "engine": "jvp"}},
}
"""Label -> entry: look-aheads that read the optimiser's moments."""
NAMES = [*strategy_names(), "shuffled(rw_kd)", "batch_mean(rw_kd)", "mean_one(wsl)", "fit_only(wsl)", *BY_ADAMW]
HERE = "tests/harness/training/test_every_strategy.py::"
OFTEN = {"rl_kd": {"update_every": 2}, "mtkd_rl": {"update_every": 2}, "mmkd": {"interval": 2}}
"""What learns every few steps does so within these few steps, and with a checkpoint between."""
TRAIN_ALL = """
from pathlib import Path
from harness.records import TrialSpec
from harness.training.trial import train_trial

cache = Path(sys.argv[1])
for line in (cache / "specs.jsonl").read_text().splitlines():
    outcome = train_trial(TrialSpec.model_validate_json(line), cache, ranks)
    if ranks.rank == 0:
        (cache / f"{outcome.record.key}.json").write_text(outcome.record.model_dump_json())
"""


@dataclass(frozen=True)
class World:
    cache: Path
    specs: dict[str, TrialSpec]

    def checkpoint(self, name: str) -> Path:
        return self.cache / "checkpoints" / self.specs[name].key


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three classes, as some strategies refuse two; two teachers, for strategies that take several.

    Six steps in three epochs: `dwa` weighs by the epochs before the last.
    """
    cache = tmp_path_factory.mktemp("every")
    training = {"epochs": 5, "learning_rate": 5e-3}  # teachers that have learned something, so that KD is not zero
    study = tiny_study(
        tasks=["mnli"],
        strategies=[_entry(name) for name in NAMES],
        data={"source": "generated", "generated": {"train_rows": 90, "report_rows": 20}, "max_length": 24},
        models={
            "student": tiny_study().models.student.model_dump(exclude_unset=True),
            "teachers": [
                *({"name": name, "config": TEACHER, "training": training} for name in ("first", "second")),
                {"name": "self", "architecture": "student", "training": training},
            ],
        },
        training={"epochs": 3, "batch_size": 45, "learning_rate": 1e-3, "meta_batch_size": 8},
    )
    return World(cache, {spec.label: spec for spec in default_specs(study, cache)})


def _entry(name: str) -> dict[str, Any]:
    if name in BY_ADAMW:
        return {"label": name, "teachers": ["first", "second"], **BY_ADAMW[name]}
    found = resolve(name)
    needs = found.needs(found.settings())
    teachers = ["first"] if needs.teachers[1] == 1 else ["first", "second"]
    if needs_of_terms(needs).same_architecture:
        teachers = ["self"]
    settings = OFTEN.get(name, {})
    if name == "lgtm":  # a finite difference along AdamW's step would enlarge what two workers round otherwise
        settings = {"engine": "exact"}
    return {"name": name, "teachers": teachers, "settings": settings}


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest) -> list[str]:
    here = [item.callspec.params["name"] for item in request.session.items if item.nodeid.startswith(HERE)]
    return list(dict.fromkeys(here))


@pytest.fixture(scope="module")
def alone(world: World, asked: list[str]) -> dict[str, TrialOutcome]:
    """The undisturbed training of the strategies that this session asks for; a checkpoint of its first epoch stays behind."""

    def trained(name: str) -> TrialOutcome:
        def keep_first(record: EpochRecord, write: Any) -> None:
            if record.epoch == 0:
                write(world.checkpoint(name))

        return train_trial(world.specs[name], world.cache, on_epoch=keep_first)

    return {name: trained(name) for name in asked}


@pytest.fixture(scope="module")
def together(world: World, asked: list[str]) -> dict[str, TrialRecord]:
    """The same on two processes with a real process group."""
    specs = {name: world.specs[name] for name in asked}
    (world.cache / "specs.jsonl").write_text("\n".join(spec.model_dump_json() for spec in specs.values()))
    run_on_two_workers(TRAIN_ALL, str(world.cache))
    records = {name: world.cache / f"{spec.key}.json" for name, spec in specs.items()}
    return {name: TrialRecord.model_validate_json(path.read_text()) for name, path in records.items()}


def way_of(name: str) -> str:
    """Strategies of the same needs take the same way through the harness; a control takes one of its own."""
    entry = _entry(name)
    found = resolve(entry["name"])
    needs = found.needs(found.settings(entry["settings"]))
    one_way = replace(
        needs,  # but for these, which no code but a term's or the look-ahead's own looks at
        terms=(),
        term_options={},
        look_ahead=needs.look_ahead and "auto",
        look_ahead_options={"step": needs.look_ahead_options.get("step")},
    )
    return repr((one_way, needs_of_terms(needs), "(" in name))


ONE_OF_EACH_WAY = first_of_each({name: way_of(name) for name in NAMES})


@pytest.mark.parametrize("name", ONE_OF_EACH_WAY)
def test_two_workers_train_as_one(name: str, alone: dict[str, TrialOutcome], together: dict[str, TrialRecord]) -> None:
    one, two = alone[name].record, together[name]
    for mine, theirs in zip(one.epochs, two.epochs, strict=True):
        assert theirs.train_loss == pytest.approx(mine.train_loss, rel=1e-4)
        assert theirs.select == pytest.approx(mine.select)
        for term, weights in mine.weights.items():
            # rounding, relative where weights are large: those of l2rw go up to the size of the batch
            assert theirs.weights[term].quantiles == pytest.approx(weights.quantiles, abs=1e-3, rel=3e-3)
    assert (two.cost.student_forward, two.cost.student_backward) == (one.cost.student_forward, one.cost.student_backward)


@pytest.mark.parametrize("name", ONE_OF_EACH_WAY)
def test_a_resumed_training_ends_exactly_as_an_undisturbed_one(name: str, world: World, alone: dict[str, TrialOutcome]) -> None:
    resumed = train_trial(world.specs[name], world.cache, resume_from=world.checkpoint(name))
    pd.testing.assert_frame_equal(resumed.predictions, alone[name].predictions, check_exact=True)
    ours, theirs = (
        [epoch.model_dump(exclude={"seconds"}) for epoch in outcome.record.epochs] for outcome in (resumed, alone[name])
    )
    assert ours == theirs
    assert resumed.record.cost.student_forward == alone[name].record.cost.student_forward
