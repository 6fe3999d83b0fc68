"""Trials are packed by what they were measured to need."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.__main__ import main
from harness.commands import memory_probe
from harness.commands.memory_probe import (
    CONTEXT_BYTES,
    MARGIN,
    Need,
    ProbeJob,
    fitted,
    gpu_share,
    known_needs,
    measured_need,
    probe_job,
)
from harness.plan.cost import cell_cost
from harness.plan.plan import Plan, load_plan
from harness.ranks import Single
from harness.study.resources import TaskResources
from harness.teachers.layer_outputs import random_outputs
from harness.teachers.prepare import serial_map
from harness.training import nvidia_smi
from harness.training.trial import make_training
from harness.watching.console import Console
from harness.watching.status_text import duration
from tests.harness.tiny import STUDENT, TEACHER, prepared_plan, tiny_study

GIB = 2**30


def need(peak: float, total: float = 80 * GIB) -> Need:
    return Need(peak_bytes=int(peak), growth_bytes=0, total_bytes=int(total), device="some GPU")


@given(st.floats(0.001, 100), st.floats(4, 200))
def test_workers_that_share_a_gpu_fit_on_it(peak: float, total: float) -> None:
    share = gpu_share(need(peak * GIB, total * GIB))
    workers = int(1 / share + 1e-9)
    taken = peak * GIB * (1 + MARGIN) + CONTEXT_BYTES
    assert 0 < share <= 1
    assert workers * share <= 1
    assert workers == 1 or workers * taken <= total * GIB
    if workers < 100:
        assert (workers + 1) * taken > total * GIB  # no room is left for one more


def test_shares_are_steps_that_ray_knows() -> None:
    assert gpu_share(need(60 * GIB)) == 1.0
    assert gpu_share(need(30 * GIB)) == 0.5
    assert gpu_share(need(20 * GIB)) == 0.3333


def test_a_process_s_context_counts_beside_its_memory() -> None:
    """60 GiB hold three workers of 15 with nothing beside them, and with the 600 MiB that are assumed; not with 5 GiB."""
    of = Need(peak_bytes=15 * GIB, growth_bytes=GIB, total_bytes=60 * GIB, device="gpu")
    shares = [gpu_share(of.model_copy(update={"context_bytes": context})) for context in (0, None, 5 * GIB)]
    assert shares == [0.3333, 0.3333, 0.5]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of nvidia-smi that prints its file `said`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path / "said"


def test_what_nvidia_smi_says_of_a_process(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi.write_text("7, 300\n8, 1000\n7, 200\n")  # on two GPUs
    assert nvidia_smi.process_bytes(7) == 500 * 2**20
    assert nvidia_smi.process_bytes(9) is None  # as in a container
    smi.write_text("7, [N/A]\n")
    assert nvidia_smi.process_bytes(7) is None
    monkeypatch.setenv("PATH", "")
    assert nvidia_smi.process_bytes(7) is None


def test_how_gpus_are_shared(smi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert "`nvidia-cuda-mps-control -d`" in nvidia_smi.how_gpus_are_shared()
    (tmp_path / "control").touch()
    assert nvidia_smi.how_gpus_are_shared() == "at the same time, through NVIDIA's MPS"
    monkeypatch.setenv("PATH", "")
    assert nvidia_smi.how_gpus_are_shared() == ""


def test_what_a_need_becomes() -> None:
    on_gpu = TaskResources(gpus_per_worker=1, packing="measured")
    assert fitted(on_gpu, need(20 * GIB)).gpus_per_worker == 0.3333
    assert fitted(on_gpu.model_copy(update={"workers": 2}), need(20 * GIB)).gpus_per_worker == 1
    assert fitted(TaskResources(packing="measured"), need(2 * GIB)).memory_per_worker == pytest.approx(2.2 * GIB, abs=1)


def plan_of(cache: Path, **changes: Any) -> tuple[Plan, Any]:
    study = tiny_study(resources={"engine": "ray", "packing": "measured"}, **changes)
    return prepared_plan(study, cache)


def larger(batch_size: int, width: int = 256) -> dict[str, Any]:
    config = {**STUDENT, "hidden_size": width, "intermediate_size": 2 * width}
    return {
        "models": {"student": {"config": config}, "teachers": [{"config": TEACHER, "training": {"epochs": 1}}]},
        "data": {"source": "generated", "generated": {"train_rows": 400, "report_rows": 20}, "max_length": 64},
        "training": {"epochs": 1, "batch_size": batch_size, "meta_batch_size": 8},
    }


@pytest.mark.slow
def test_a_larger_batch_is_measured_to_need_more(tmp_path: Path) -> None:
    """Each in a process of its own, as Ray's tasks are: memory that something else has left free would hide a need."""
    grown: list[int] = []
    seconds: list[float] = []
    for batch_size in (2, 320):
        plan, prepared = plan_of(tmp_path, **larger(batch_size))
        job = probe_job(plan, plan.cells[0], prepared)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own_process:
            found = Need.model_validate_json(own_process.submit(measured_need, job, tmp_path).result())
        assert found.total_bytes > found.peak_bytes >= found.growth_bytes
        assert found.step_seconds is not None
        seconds.append(found.step_seconds)
        grown.append(found.growth_bytes)
    assert grown[1] > grown[0] + 30 * 2**20
    assert seconds[1] > 3 * seconds[0] > 0  # 160 times the rows


def test_a_need_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, prepared = plan_of(tmp_path)
    job = probe_job(plan, plan.cells[0], prepared)
    first = measured_need(job, tmp_path)
    monkeypatch.setattr(memory_probe, "_measure", lambda *_: pytest.fail("measured again"))
    assert measured_need(job, tmp_path) == first


def test_what_needs_the_same_is_one_measurement_and_what_may_not_is_not(tmp_path: Path) -> None:
    space = {"batch_size": {"type": "choice", "values": [8, 64, 16]}}
    plan, prepared = plan_of(
        tmp_path, strategies=["fixed_alpha", "wsl", "rw_kd"], search={"trials": 2, "repeats": 2, "space": space}
    )
    jobs = [probe_job(plan, cell, prepared) for cell in plan.cells]
    by_strategy = {cell.strategy.name: job.need_digest for cell, job in zip(plan.cells, jobs, strict=True)}
    assert len({job.need_digest for job in jobs}) == 2
    assert by_strategy["fixed_alpha"] == by_strategy["wsl"] != by_strategy["rw_kd"]
    assert {job.spec.training.batch_size for job in jobs} == {64}  # the largest that the search may try


def test_graphs_need_memory_of_their_own(tmp_path: Path) -> None:
    plan, prepared = plan_of(tmp_path)
    (cell,) = plan.cells
    graphs = replace(cell, training=cell.training.model_copy(update={"compile": "graphs"}))
    assert probe_job(plan, cell, prepared).need_digest != probe_job(plan, graphs, prepared).need_digest


def test_the_plan_gets_what_was_measured_and_keeps_what_could_not_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, prepared = plan_of(tmp_path, strategies=["fixed_alpha", "rw_kd"])

    def map_function(
        function: Callable[[ProbeJob], str], items: Iterable[ProbeJob]
    ) -> Iterator[tuple[ProbeJob, str | BaseException]]:
        for item in items:
            fails = item.spec.strategy == "rw_kd"
            yield item, (RuntimeError("no") if fails else need(GIB).model_dump_json())

    found = memory_probe.with_measured_needs(plan, prepared, tmp_path, Console(), map_function)
    memory = {cell.strategy.name: cell.resources.memory_per_worker for cell in found.cells}
    assert memory == {"fixed_alpha": pytest.approx(1.1 * GIB, abs=1), "rw_kd": 0}
    said = capsys.readouterr().out
    assert "the memory of sst2/rw_kd/0 could not be measured: RuntimeError: no" in said
    assert "sst2, fixed_alpha: 1.00 GiB on some GPU: 1.10 GiB to reserve for each" in said


def test_without_packing_nothing_is_measured(tmp_path: Path) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("measured")

    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    assert memory_probe.with_measured_needs(plan, prepared, tmp_path, Console(quiet=True), never) is plan


def test_a_plan_measures_what_a_run_would_and_trains_no_teacher(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    file = study_file(strategies=["fixed_alpha", "wsl"], resources={"engine": "ray"})
    assert main(["plan", str(file), "--measure"]) == 0
    said = capsys.readouterr().out
    assert "stood in: teacher of sst2." in said
    assert not (cache / "teachers").exists()
    (measured,) = known_needs(cache)
    largest = math.ceil(measured.peak_bytes * (1 + MARGIN))
    assert f"`--set resources.memory_per_worker={largest}`, enough for all of these" in said
    (row,) = (line.split() for line in said.splitlines() if line.startswith("sst2 ") and "wsl" in line)
    assert measured.step_seconds is not None
    figures = [f"{measured.peak_bytes / GIB:.2f}", f"{measured.step_seconds:.2g}", str(measured.total_bytes // largest)]
    assert row[-4:] == ["16", *figures]
    assert main(["plan", str(file), "--measure", "--set", "resources.stacked=4"]) == 0
    assert "the 4 that are stacked in a process take up to 4 times as much" in capsys.readouterr().out

    monkeypatch.setattr(memory_probe, "_measure", lambda *_: pytest.fail("measured again"))
    plan, prepared = prepared_plan(load_plan(file, ["resources.packing=measured"]).study, cache)
    found = memory_probe.with_measured_needs(plan, prepared, cache, Console(quiet=True), serial_map)
    assert {cell.resources.memory_per_worker for cell in found.cells} == {largest}


def test_what_a_plan_says_of_a_gpu(
    study_file: Callable[..., Path], smi: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 80 GiB, 25 hold three workers; where the process's own memory is not said, what is assumed is named."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(smi.parent))
    contexts: list[int | None] = []

    def pretend(
        function: Callable[[ProbeJob], str], items: Iterable[ProbeJob]
    ) -> Iterator[tuple[ProbeJob, str | BaseException]]:
        for item in items:
            assert item.gpus == 1
            peak, seconds = (23, 7.25) if item.spec.strategy == "rw_kd" else (9, 1.75)
            beside = {"context_bytes": contexts[-1], "step_seconds": seconds}
            yield item, need(peak * GIB).model_copy(update=beside).model_dump_json()

    monkeypatch.setattr(memory_probe, "in_own_processes", pretend)
    resources = {"engine": "ray", "gpus_per_worker": 0.5}
    command = ["plan", str(study_file(strategies=["fixed_alpha", "rw_kd"], resources=resources)), "--measure"]

    def said(context: int | None, *changes: str) -> str:
        contexts.append(context)
        assert main([*command, *(part for change in changes for part in ("--set", change))]) == 0
        return capsys.readouterr().out

    measured = said(GIB)
    rows = [line.split() for line in measured.splitlines() if line.startswith("sst2 ")][-2:]
    assert rows == [
        ["sst2", "fixed_alpha", "16", "9.00", "1.00", "1.8", "7"],
        ["sst2", "rw_kd", "16", "23.00", "1.00", "7.2", "3"],
    ]
    plan = load_plan(command[1])
    plain, looking = (cost.steps for cell in plan.cells if (cost := cell_cost(plan, cell)) is not None)
    assert looking < plain  # it trains on fewer rows, as it keeps some for its meta set
    taken = duration(1.75 * plain + 7.25 * looking)
    assert f"At them {plain + looking:,} planned steps take {taken}, one trial after another" in measured
    assert "`--set resources.gpus_per_worker=0.3333`, enough for all of these" in measured
    assert "nvidia-smi says nothing" not in measured
    assert "share a GPU of this machine compute in turns" in measured
    assert max(map(len, measured[measured.index("allocator") :].split("In GiB")[0].splitlines())) <= 80
    assert "nvidia-smi says nothing of a process here: CUDA's own is taken as 0.59 GiB" in said(None)
    assert "`run` gives each kind its own share of a GPU" in said(GIB, "resources.packing=measured")
    assert "inline` runs one trial at a time" in said(GIB, "resources.engine=inline")


def test_a_plan_that_cannot_measure_says_so(
    study_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(study_file(strategies=["fixed_alpha"], resources={"engine": "ray"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["plan", file, "--measure", "--set", "resources.gpus_per_worker=0.5"]) == 2
    assert "error: gpus_per_worker is 0.5 for sst2, and PyTorch finds no GPU here" in capsys.readouterr().err
    assert main(["plan", file, "--measure", "--detect", "1"]) == 2
    assert "--measure and --detect" in capsys.readouterr().err

    def lost(_: Any, items: Iterable[ProbeJob]) -> Iterator[tuple[ProbeJob, BaseException]]:
        yield from ((item, MemoryError("no room")) for item in items)

    monkeypatch.setattr(memory_probe, "in_own_processes", lost)
    assert main(["plan", file, "--measure"]) == 1
    assert "the memory of sst2/fixed_alpha/0 could not be measured: MemoryError: no room" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_is_lost_costs_its_own_measurement_alone(tmp_path: Path) -> None:
    plan, prepared = plan_of(tmp_path)
    job = probe_job(plan, plan.cells[0], prepared)
    jobs = [job.model_copy(update={"need_digest": name, "gpus": name == "gpu"}) for name in ("a", "b", "lost", "c", "gpu")]
    found = {item.need_digest: said for item, said in memory_probe.in_own_processes(_process_of, jobs)}
    assert isinstance(found.pop("lost"), BrokenProcessPool)
    assert found["a"] == found["b"]  # without a GPU they share a process
    assert len({found["a"], found["c"], found["gpu"], str(os.getpid())}) == 4


def _process_of(job: ProbeJob) -> str:
    if job.need_digest == "lost":
        os.kill(os.getpid(), signal.SIGKILL)
    return str(os.getpid())


@pytest.mark.parametrize("strategy", ["msd", "mtkd_rl", "relational_kd", "self_kd", "universal_kd"])
def test_outputs_that_stand_in_for_a_teacher_s_are_like_them(strategy: str, tmp_path: Path) -> None:
    teacher = {"config": STUDENT if strategy == "self_kd" else TEACHER, "training": {"epochs": 1}}
    models = {"student": {"config": STUDENT}, "teachers": [teacher]}
    plan, prepared = plan_of(tmp_path, strategies=[strategy], models=models)
    job = probe_job(plan, plan.cells[0], prepared)
    outputs = plan.teacher_outputs["teacher"]
    assert not job.stand_ins
    random = random_outputs(job.spec.teachers[0], job.spec.task, job.spec.data_digest, outputs, tmp_path)
    real, drawn = (
        make_training(job.spec, tmp_path, Single(), torch.device("cpu"), stand_ins=stand_ins).training
        for stand_ins in ({}, {"teacher": random})
    )
    rows = np.arange(5)
    batches = [training.fit.batch(rows, 5, torch.device("cpu")) for training in (real, drawn)]
    made, like = ([*batch.teacher_outputs.items(), ("logits", batch.teacher_logits)] for batch in batches)
    shapes = [[(name, [(one.shape, one.dtype) for one in each]) for name, each in found] for found in (made, like)]
    assert shapes[0] == shapes[1]
    features = [batch.teacher_features and [one.shape for one in batch.teacher_features] for batch in batches]
    assert features[0] == features[1]
    assert not torch.equal(batches[0].teacher_logits, batches[1].teacher_logits)
    drawn.train_on_longest(8, 1)


@pytest.mark.gpu
def test_on_a_gpu_the_allocator_says_what_is_needed(tmp_path: Path) -> None:
    grown = []
    for batch_size in (2, 320):
        plan, prepared = plan_of(tmp_path, **larger(batch_size))
        found = Need.model_validate_json(measured_need(probe_job(plan, plan.cells[0], prepared), tmp_path))
        assert found.total_bytes == torch.cuda.get_device_properties(0).total_memory
        grown.append(found.peak_bytes)
    assert grown[1] > grown[0]
