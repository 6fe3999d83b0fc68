"""How much memory a trial's worker needs, measured by a few steps on the longest batch, and kept in the cache."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.digest import digest
from harness.plan.plan import SHARED, Cell, Plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.records import TrialSpec
from harness.study.resources import TaskResources
from harness.study.section import Section

if TYPE_CHECKING:
    from harness.watching.console import Console

STEPS = 3
"""Adam's state is there after the first one."""
MARGIN = 0.1
"""On top of what was measured: fragmentation, and batches whose sum of lengths is larger than the longest rows'."""
CONTEXT_BYTES = 600 * 2**20
"""Of a GPU, for each process: CUDA's context and its libraries, beside the allocator's. Where nvidia-smi is silent."""


class Need(Section):
    """Of one worker."""

    peak_bytes: int
    """On a GPU what the allocator reserved; on a CPU the peak of the process's resident set, libraries included."""
    growth_bytes: int
    """Of that, what came after the libraries and the model were loaded."""
    total_bytes: int
    """The device's memory; the machine's where there is no GPU."""
    context_bytes: int | None = None
    """On a GPU what the process takes beside the allocator, as nvidia-smi has it; None where it does not say."""
    step_seconds: float | None = None
    """Of a step after the first, on a batch of the longest rows. None for a rank of several, which waits for the others."""
    device: str
    of: str = ""
    """What was measured, for people."""


class ProbeJob(Section):
    """One measurement. Trials of the same `need_digest` need the same."""

    spec: TrialSpec
    need_digest: str
    cpus: float
    gpus: float
    stand_ins: dict[str, tuple[str, ...]] = {}
    """Names of teachers that the cache lacks -> the outputs that the study wants of each, which are drawn at random then."""


@dataclass(frozen=True)
class Kind:
    """Trials that need the same."""

    job: ProbeJob
    need: Need
    cells: tuple[Cell, ...]

    @property
    def resources(self) -> TaskResources:
        """What a worker of them is given."""
        return fitted(self.cells[0].resources, self.need)

    @property
    def strategies(self) -> str:
        return ", ".join(dict.fromkeys(cell.entry.shown for cell in self.cells))


class ProbeMap(Protocol):
    def __call__(
        self, function: Callable[[ProbeJob], str], items: Iterable[ProbeJob]
    ) -> Iterator[tuple[ProbeJob, str | BaseException]]: ...


def gpu_share(need: Need) -> float:
    """The fraction of a GPU that a worker is given: 1 / n for the largest number n of workers that fit, rounded down to Ray's
    steps of 0.0001. 1 where a single one hardly fits.
    """
    wanted = need.peak_bytes * (1 + MARGIN) + (CONTEXT_BYTES if need.context_bytes is None else need.context_bytes)
    workers = max(1, min(math.floor(need.total_bytes / wanted), 100))
    return math.floor(10_000 / workers) / 10_000


def with_measured_needs(
    plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path, console: Console, map_function: ProbeMap
) -> Plan:
    """The plan with the resources that its trials need, for cells with `resources.packing: measured`.

    One-worker trials on a GPU get a share of it; trials without a GPU reserve memory of the machine. A cell whose measurement
    fails keeps what the study says, and the console says so.
    """
    wanted = [cell for cell in plan.cells if cell.resources.packing == "measured" and _teachers_are_there(cell, prepared)]
    kinds = measure(plan, wanted, prepared, cache, console, map_function)
    resolved = {cell.id: replace(cell, resources=fitted(cell.resources, kind.need)) for kind in kinds for cell in kind.cells}
    return replace(plan, cells=tuple(resolved.get(cell.id, cell) for cell in plan.cells)) if resolved else plan


def measure(
    plan: Plan,
    cells: Sequence[Cell],
    prepared: Mapping[str, PreparedTask],
    cache: Path,
    console: Console,
    map_function: ProbeMap,
) -> list[Kind]:
    """What the cells' trials need. A kind whose measurement fails is left out, and the console says so."""
    jobs: dict[str, ProbeJob] = {}
    of_kind: dict[str, list[Cell]] = {}
    for cell in cells:
        job = probe_job(plan, cell, prepared)
        jobs.setdefault(job.need_digest, job)
        of_kind.setdefault(job.need_digest, []).append(cell)
    if not jobs:
        return []
    console.stage(f"measuring the memory of {len(jobs)} kinds of trials")
    found = []
    for job, said in map_function(partial(measured_need, cache=cache), jobs.values()):
        own = of_kind[job.need_digest]
        if isinstance(said, BaseException):
            console.note(f"the memory of {own[0].id} could not be measured: {type(said).__name__}: {said}")
            continue
        found.append(kind := Kind(job, Need.model_validate_json(said), tuple(own)))
        console.note(
            f"{own[0].task.name}, {kind.strategies}: {kind.need.peak_bytes / 2**30:.2f} GiB{_beside(kind.need)} on "
            f"{kind.need.device}: {_shown(kind.resources)}"
        )
    return found


def in_own_processes(
    function: Callable[[ProbeJob], str], items: Iterable[ProbeJob]
) -> Iterator[tuple[ProbeJob, str | BaseException]]:
    """A ProbeMap of this machine, one item after another. As Ray's tasks: on a GPU each in a process of its own, with which
    goes what it leaves there, and without one all in the same. Ray is loaded in it, as in the processes of trials.
    """
    with ExitStack() as processes:
        pool: ProcessPoolExecutor | None = None
        for item in items:
            if pool is None or item.gpus:
                processes.close()
                started = ProcessPoolExecutor(1, get_context("spawn"), import_module, ("harness.engine.ray_trial",))
                pool = processes.enter_context(started)
            try:
                said: str | BaseException = pool.submit(function, item).result()
            except Exception as error:  # the other kinds are measured still
                said, pool = error, None
            yield item, said


def fitted(resources: TaskResources, need: Need) -> TaskResources:
    """The resources of a worker with that need."""
    if resources.gpus_per_worker == 0:
        return resources.model_copy(update={"memory_per_worker": math.ceil(need.peak_bytes * (1 + MARGIN))})
    if resources.workers > 1:
        return resources  # ranks of one trial need whole GPUs
    return resources.model_copy(update={"gpus_per_worker": gpu_share(need)})


def probe_job(plan: Plan, cell: Cell, prepared: Mapping[str, PreparedTask]) -> ProbeJob:
    """The cell's largest trial: its default with the largest batches that its search may try."""
    sizes = (f"{SHARED}batch_size", f"{SHARED}meta_batch_size")
    largest = {key: _largest(cell.space[key]) for key in sizes if key in cell.space}
    spec = trial_spec(plan, cell, 0, largest, prepared)
    needs = cell.strategy.needs(cell.strategy.settings(spec.settings))
    content = {
        "student": spec.student.model_dump(mode="json"),
        "student_digest": spec.student_digest,
        "data": spec.data_digest,
        "max_length": spec.data.max_length,
        "batch": [spec.training.batch_size, spec.training.meta_batch_size, spec.resources.workers],
        "precision": spec.training.precision,
        "teachers": len(spec.teachers),
        "cost": cell.strategy.strategy.cost,
        "needs": repr(replace(needs, teachers=(0, None))),  # how many it is given is said above
    }
    if spec.training.compile != "none":
        content["compile"] = spec.training.compile
    lacking = [teacher.name for teacher in cell.teachers if teacher.name in prepared[cell.task.name].teacher_errors]
    return ProbeJob(
        spec=spec,
        need_digest=digest(content),
        cpus=spec.resources.cpus_per_worker,
        gpus=math.ceil(spec.resources.gpus_per_worker),  # it has a whole one
        stand_ins={name: plan.teacher_outputs[name] for name in lacking},
    )


def measured_need(job: ProbeJob, cache: Path) -> str:
    """The job's Need as JSON: from the cache, where this kind of device was measured before."""
    import torch

    from harness.store.files import write_atomically
    from harness.training.device import device_for, processor

    device = device_for(job.gpus)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    file = cache / "memory" / f"{digest({'need': job.need_digest, 'device': name})}.json"
    if file.exists():
        return file.read_text("utf-8")
    found = _measure(job, cache, device, name).model_dump_json()
    write_atomically(file, found.encode())
    return found


def known_needs(cache: Path) -> list[Need]:
    """All that the cache holds, largest first."""
    found = [Need.model_validate_json(file.read_text("utf-8")) for file in (cache / "memory").glob("*.json")]
    return sorted(found, key=lambda need: (-need.peak_bytes, need.of))


def _measure(job: ProbeJob, cache: Path, device: Any, name: str) -> Need:
    import psutil
    import torch

    from harness.ranks import Single
    from harness.teachers.layer_outputs import random_outputs
    from harness.training.nvidia_smi import process_bytes
    from harness.training.peak_memory import peak_bytes, reset_peak
    from harness.training.trial import make_training

    spec = job.spec
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(job.cpus)))  # as the trial does
    stand_ins = {
        teacher.name: random_outputs(teacher, spec.task, spec.data_digest, job.stand_ins[teacher.name], cache)
        for teacher in spec.teachers
        if teacher.name in job.stand_ins
    }
    gc.collect()  # what an earlier measurement has left
    training = make_training(spec, cache, Single(), device, stand_ins=stand_ins).training
    before = psutil.Process().memory_info().rss if device.type == "cpu" else torch.cuda.memory_allocated(device)
    reset_peak(device)
    # a rank's share of the batch; gradients are averaged in place, so a group of ranks takes little more
    rows = -(-spec.training.batch_size // spec.resources.workers)
    seconds = training.train_on_longest(rows, STEPS)
    context = None
    if device.type == "cpu":
        peak, total = peak_bytes(device), psutil.virtual_memory().total
    else:
        peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        seen = process_bytes(os.getpid())
        context = None if seen is None else max(0, seen - torch.cuda.memory_reserved(device))
    return Need(
        peak_bytes=peak,
        growth_bytes=max(0, peak - before),
        total_bytes=total,
        context_bytes=context,
        step_seconds=seconds if spec.resources.workers == 1 else None,
        device=name,
        of=_kind(spec, training.precision),
    )


def _kind(spec: TrialSpec, precision: str) -> str:
    model = spec.student.model or (spec.student.config or {}).get("model_type")
    shared = f" over {spec.resources.workers} workers" if spec.resources.workers > 1 else ""
    training = spec.training
    return f"{model}, {spec.strategy} on {spec.task.name}, batch {training.batch_size}{shared}, {precision}"


def _teachers_are_there(cell: Cell, prepared: Mapping[str, PreparedTask]) -> bool:
    return not any(teacher.name in prepared[cell.task.name].teacher_errors for teacher in cell.teachers)


def _largest(space: Any) -> Any:
    return max(space.values) if hasattr(space, "values") else space.high


def _beside(need: Need) -> str:
    return "" if need.context_bytes is None else f" and {need.context_bytes / 2**20:.0f} MiB of CUDA's own"


def _shown(resources: TaskResources) -> str:
    if resources.gpus_per_worker:
        return f"{resources.gpus_per_worker:g} of a GPU for each"
    return f"{resources.memory_per_worker / 2**30:.2f} GiB to reserve for each"
