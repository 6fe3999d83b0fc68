"""What the harness does on a GPU, found without one: whole trials and steps on the simulated device (`simulated_cuda`).

    python -m tests.benchmarks.gpu.device_audit PART [NAME ...] --out FOLDER

strategies  every strategy's whole trial (teachers too) in fp32 and auto (= bf16): what raises, what makes the host wait in a
            training step; each is then resumed from a checkpoint and must end as if it had not been broken off
steps       waits, copies and kernel launches of a step by strategy, with a student of three layers (counts do not depend on its
            width), batch 32
masks       whether a look-ahead repeats the dropout masks of the training step, by engine and precision
engines     cosine of jvp and fd to exact

`rank_audit` counts collectives on two ranks. Exit status 1 where a trial raised or its resumption ended otherwise.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tests.benchmarks.gpu.simulated_cuda as sim  # isort: skip  before torch

import torch

from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import build_model
from harness.study.schema import ModelSpec
from harness.training.loop import Training
from harness.training.trial import train_trial
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.setting import make_training, step_of
from tests.harness.look_ahead.looking_ahead import TERMS, cosine, cosine_to_the_step, make_batch, some_weights, student
from tests.harness.tiny import TEACHER, default_specs, tiny_study
from tests.harness.training import test_every_strategy as every

COUNT = sim.COUNT
STEPS: list[tuple[str, dict[str, Any]]] = [
    ("fixed_alpha", {}),
    ("rw_kd", {}),
    ("rw_kd", {"engine": "fd"}),
    ("rw_kd", {"engine": "exact"}),
    ("rw_kd", {"reading": "per_sample"}),
    ("rw_kd", {"precondition": "adam"}),
    ("rw_kd", {"look_ahead_layers": 1}),
    ("rw_kd", {"shortest_look_ahead": 0.0}),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu.device_audit")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("names", nargs="*", help="strategies; all where none is named")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "auto"], choices=["fp32", "bf16", "auto"])
    parser.add_argument("--defaults", action="store_true", help="of the steps those with a strategy's default settings")
    parser.add_argument("--out", type=Path, help="folder for PART.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    found: list[dict[str, Any]] = []
    with sim.install():
        for entry in PARTS[arguments.part](arguments):
            found.append(entry)
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                (arguments.out / f"{arguments.part}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    failed = [entry for entry in found if not entry.get("ok", True)]
    return 1 if failed else 0


def strategies(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    names = arguments.names or every.NAMES
    for precision in arguments.precisions:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            specs = {spec.label: spec for spec in default_specs(_study(names, precision), cache)}
            for name in names:
                entry = {"strategy": name, "asked": precision, **_trial_and_resumption(specs[name], cache)}
                print(f"{precision:5} {name:24} {_shown(entry)}", flush=True)
                yield entry


def _study(names: list[str], precision: str) -> Any:
    """Several teachers, one of them the student's like; dropout is on."""
    training = {"epochs": 1, "learning_rate": 5e-3, "precision": precision}
    student = tiny_study().models.student.model_dump(exclude_unset=True) | {"dropout": 0.1}
    teachers = [{"name": name, "config": TEACHER, "training": training} for name in ("first", "second")]
    return tiny_study(
        tasks=["mnli"],
        strategies=[every._entry(name) for name in names],
        data={"source": "generated", "generated": {"train_rows": 90, "report_rows": 20}, "max_length": 24},
        models={"student": student, "teachers": [*teachers, {"name": "self", "architecture": "student", "training": training}]},
        training={"epochs": 3, "batch_size": 45, "learning_rate": 1e-3, "meta_batch_size": 8, "precision": precision},
    )


def _trial_and_resumption(spec: Any, cache: Path) -> dict[str, Any]:
    checkpoint = cache / "checkpoints" / spec.key

    def keep_first(record: Any, write: Callable[[Path], None]) -> None:
        if record.epoch == 0:
            write(checkpoint)

    COUNT.clear()
    try:
        with _steps_counted() as steps:
            whole = train_trial(spec, cache, on_epoch=keep_first)
        resumed = train_trial(spec, cache, resume_from=checkpoint)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(sim.counts.PLACES)]
        where = [f"{Path(f.filename).relative_to(sim.counts.PROJECT)}:{f.lineno}" for f in frames[-3:]]
        return {"ok": False, "error": f"{type(error).__name__}: {error}", "where": where}
    count = steps["steps"]
    counted: sim.Counters = steps["counted"]
    losses = [[epoch.train_loss for epoch in outcome.record.epochs] for outcome in (whole, resumed)]
    return {
        "ok": losses[0] == losses[1] and whole.predictions.equals(resumed.predictions),
        "device": whole.record.cost.device,
        "precision": whole.record.cost.precision,
        "steps": count,
        "syncs_per_step": round(counted.syncs.total() / count, 2),
        "syncs": shown(counted.syncs),
        "h2d_per_step": round(counted.h2d / count, 2),
        "launches_per_step": round(counted.launches.total() / count, 1),
        "attention": dict(counted.attention),
        "host_scalars": shown(counted.mixed_scalars),
        "outside_steps": shown(COUNT.syncs),
    }


def _shown(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return f"{entry['error'][:200]} at {entry['where']}"
    resumed = "resumed alike" if entry["ok"] else "RESUMED OTHERWISE"
    return f"{entry['syncs_per_step']:5.1f} syncs {entry['launches_per_step']:7.1f} launches a step, {resumed}"


@contextmanager
def _steps_counted() -> Iterator[dict[str, Any]]:
    """Counts of training steps apart from all else."""
    plain = Training._step
    watched: dict[str, Any] = {"steps": 0, "counted": sim.Counters()}

    def step(training: Training, *given: Any, **named: Any) -> Any:
        outside = sim.Counters()
        outside.add(COUNT)
        COUNT.clear()
        try:
            return plain(training, *given, **named)
        finally:
            watched["steps"] += 1
            watched["counted"].add(COUNT)
            COUNT.clear()
            COUNT.add(outside)

    Training._step = step  # type: ignore[method-assign]
    try:
        yield watched
    finally:
        Training._step = plain  # type: ignore[method-assign]


def steps(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    config = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 384}
    task = Bench(small=True, glue=Path()).task()
    for strategy, settings in STEPS:
        if (arguments.names and strategy not in arguments.names) or (arguments.defaults and settings):
            continue
        for precision in [p for p in arguments.precisions if p != "auto"] or ["bf16"]:
            model = build_model(ModelSpec(config={"model_type": "bert", **config}), 2, 1, task.vocabulary)
            training = make_training(task, strategy, settings, precision=precision, model=model)
            step = step_of(training)
            for index in range(4):  # the meta gradient is prepared from the third step on
                step(index)
            COUNT.clear()
            step(4)
            entry = {
                "strategy": strategy,
                "settings": settings,
                "precision": precision,
                "syncs": COUNT.syncs.total(),
                "sync_places": shown(COUNT.syncs),
                "h2d_copies": COUNT.h2d,
                "pinned": COUNT.pinned,
                "launches": COUNT.launches.total(),
                "attention": dict(COUNT.attention),
                "top": shown(COUNT.launches)[:12],
            }
            print(
                f"{strategy:12} {json.dumps(settings):34} {precision} syncs {entry['syncs']:3}  h2d {entry['h2d_copies']:2}  "
                f"launches {entry['launches']:5}  {entry['attention']}",
                flush=True,
            )
            yield entry


def masks(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for dropout in (0.1, 0.0):
        for precision, engine in (("fp32", "fd"), ("fp32", "jvp"), ("fp32", "exact"), ("bf16", "jvp")):
            close = cosine_to_the_step(torch.device("cuda"), precision, engine, dropout)
            print(f"attention dropout {dropout} {precision} {engine:5}: cosine to the step's own {close:.5f}", flush=True)
            yield {"ok": close > 0.999, "dropout": dropout, "precision": precision, "engine": engine, "cosine": close}


def engines(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for precision in ("fp32", "bf16"):
        model = student().to("cuda").eval()
        batch, meta = make_batch(2, 16, 1).to(sim.CUDA), make_batch(2, 12, 2).to(sim.CUDA)
        weights = {name: weight.to(sim.CUDA) for name, weight in some_weights(16).items()}

        def influence(engine: str, held: str, model: Any = model, given: Any = (batch, meta, 0.1, weights)) -> dict[str, Any]:
            found = LookAhead(model, TERMS, engine, meta_precision=held, jvp_precision=held).influence(*given)
            return {name: values.cpu() for name, values in found.items()}

        exact = influence("exact", "fp32")
        for engine in ("exact", "jvp", "fd"):
            COUNT.clear()
            close = cosine(influence(engine, precision), exact)
            print(precision, engine, f"cosine {close:.6f}", dict(COUNT.attention), flush=True)
            yield {"precision": precision, "engine": engine, "cosine": close, "attention": dict(COUNT.attention)}


def shown(counter: collections.Counter[Any]) -> list[list[Any]]:
    return [[*key, n] if isinstance(key, tuple) else [key, n] for key, n in counter.most_common()]


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "strategies": strategies,
    "steps": steps,
    "masks": masks,
    "engines": engines,
}

if __name__ == "__main__":
    sys.exit(main())
