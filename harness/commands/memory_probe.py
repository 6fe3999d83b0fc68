"""How much memory a trial's worker needs, measured by a few steps on the longest batch, and kept in the cache."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.digest import digest
from harness.plan.plan import SHARED, Cell, Plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.records import TrialSpec
from harness.study.resources import TaskResources
from harness.study.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable

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
    device: str
    of: str = ""
    """What was measured, for people."""


class ProbeJob(Section):
    """One measurement. Trials of the same `need_digest` need the same."""

    spec: TrialSpec
    need_digest: str
    cpus: float
    gpus: float


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
    jobs: dict[str, ProbeJob] = {}
    wanted = [cell for cell in plan.cells if cell.resources.packing == "measured" and _teachers_are_there(cell, prepared)]
    for cell in wanted:
        job = probe_job(plan, cell, prepared)
        jobs.setdefault(job.need_digest, job)
    if not jobs:
        return plan
    console.stage(f"measuring the memory of {len(jobs)} kinds of trials")
    needs: dict[str, Need] = {}
    for job, found in map_function(partial(measured_need, cache=cache), jobs.values()):
        if isinstance(found, BaseException):
            console.note(f"the memory of {job.spec.cell_id} could not be measured: {type(found).__name__}: {found}")
        else:
            needs[job.need_digest] = Need.model_validate_json(found)
    resolved = {}
    for cell in wanted:
        need = needs.get(probe_job(plan, cell, prepared).need_digest)
        if need is not None:
            resolved[cell.id] = replace(cell, resources=fitted(cell.resources, need))
            console.note(
                f"{cell.id}: {need.peak_bytes / 2**30:.2f} GiB{_beside(need)} on {need.device}: "
                f"{_shown(resolved[cell.id].resources)}"
            )
    return replace(plan, cells=tuple(resolved.get(cell.id, cell) for cell in plan.cells))


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
    whole_gpu = math.ceil(spec.resources.gpus_per_worker)
    return ProbeJob(spec=spec, need_digest=digest(content), cpus=spec.resources.cpus_per_worker, gpus=whole_gpu)


def measured_need(job: ProbeJob, cache: Path) -> str:
    """The job's Need as JSON: from the cache, where this kind of device was measured before."""
    import torch

    from harness.store.files import write_atomically
    from harness.training.device import device_for

    device = device_for(job.gpus)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    file = cache / "memory" / f"{digest({'need': job.need_digest, 'device': name})}.json"
    if file.exists():
        return file.read_text("utf-8")
    found = _measure(job.spec, cache, device, name).model_dump_json()
    write_atomically(file, found.encode())
    return found


def known_needs(cache: Path) -> list[Need]:
    """All that the cache holds, largest first."""
    found = [Need.model_validate_json(file.read_text("utf-8")) for file in (cache / "memory").glob("*.json")]
    return sorted(found, key=lambda need: (-need.peak_bytes, need.of))


def _measure(spec: TrialSpec, cache: Path, device: Any, name: str) -> Need:
    import psutil
    import torch

    from harness.ranks import Single
    from harness.training.nvidia_smi import process_bytes
    from harness.training.peak_memory import peak_bytes, reset_peak
    from harness.training.trial import make_training

    training = make_training(spec, cache, Single(), device).training
    before = psutil.Process().memory_info().rss if device.type == "cpu" else torch.cuda.memory_allocated(device)
    reset_peak(device)
    # a rank's share of the batch; gradients are averaged in place, so a group of ranks takes little more
    rows = -(-spec.training.batch_size // spec.resources.workers)
    training.train_on_longest(rows, STEPS)
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
        return f"{resources.gpus_per_worker:g} of a GPU each"
    return f"{resources.memory_per_worker / 2**30:.2f} GiB reserved each"
