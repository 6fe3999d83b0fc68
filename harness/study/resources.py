"""What of the machine a study's trials get: slots, memory, tries, checkpoints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from harness.study.section import Section


class TaskResources(Section):
    workers: int = Field(1, ge=1)
    """Ranks of one trial; 2 or more train through Ray Train."""
    cpus_per_worker: float = Field(1, ge=0)
    gpus_per_worker: float = Field(0, ge=0)
    """0: the CPU, whatever the machine has. Fractions pack several one-worker trials on a GPU, each held to its share of the
    memory."""
    memory_per_worker: int = Field(0, ge=0)
    """Bytes of the machine's memory that Ray reserves for a worker; 0: none."""
    packing: Literal["given", "measured"] = "given"
    """measured: a probe of a few steps on the longest batch says how many one-worker trials share a GPU (up to
    gpus_per_worker each), or, without GPUs, the memory that each reserves. For the engine ray."""
    placement: Literal["pack", "spread", "strict_spread"] = "pack"
    """Of a trial's workers: pack: on few nodes; spread: on many where it can be; strict_spread: each on a node of its own."""
    checkpoint_seconds: float = Field(30, ge=0)
    """A checkpoint is written after an epoch where the last one, or the trial's start, is at least so long ago; 0: after every
    epoch."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> TaskResources:
        if self.workers > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(
                f"{self.workers} workers of one trial need whole GPUs each, got gpus_per_worker {self.gpus_per_worker}"
            )
        return self


class NodeShape(Section):
    """Nodes that an autoscaler can add."""

    nodes: int = Field(ge=1)
    """At most so many of them."""
    cpus: float = Field(0, ge=0)
    gpus: float = Field(0, ge=0)
    memory: int = Field(0, ge=0)
    """Bytes."""


class ResourcesSpec(TaskResources):
    engine: Literal["ray", "inline"] = "ray"
    """inline: one trial after another in this process, without Ray."""
    trainer: Literal["auto", "ray_train"] = "auto"
    """auto: one-worker trials run in the warm Tune process; ray_train: all trials go through Ray Train's TorchTrainer."""
    concurrent_trials: int | None = Field(None, ge=1)
    """At most so many trials at once; as many as the cluster holds where not given."""
    stacked: int = Field(1, ge=1)
    """So many one-worker trials in one process, each step of whose students is one pass of stacked weights: the same numbers
    but for rounding (on a GPU with other dropout masks). They share the CPUs, GPUs and memory of one worker. Students of one
    shape share passes, of BERT or RoBERTa; strategies that look ahead, or need hidden states or gradients of their terms, train
    one by one, with a note. Best with as many cells for each process."""
    retries: int = Field(2, ge=0)
    """For failures that are not the method's fault: a killed worker, a trial that stands still. Lost nodes do not count (20 of
    them may go), and after a CUDA error there is always one."""
    stall_minutes: float = Field(720, gt=0)
    """A trial without a step for so long, in a process that lives, is ended and tried again. For the engine ray."""
    per_task: dict[str, TaskResources] = {}
    """Fields that differ for a task."""
    cluster_may_grow_to: list[NodeShape] = []
    """For a cluster with an autoscaler: all the nodes that it can have. What fits neither on them nor on those that
    are there is refused; what fits is asked for, and waits for its node."""

    @model_validator(mode="before")
    @classmethod
    def _own_of_tasks(cls, given: Any) -> Any:
        """What a task's entry does not name is as for all."""
        if not isinstance(given, dict) or not isinstance(given.get("per_task"), dict):
            return given
        for_all = {name: given[name] for name in TaskResources.model_fields if name in given}
        own = {task: {**for_all, **one} if isinstance(one, dict) else one for task, one in given["per_task"].items()}
        return {**given, "per_task": own}

    def for_task(self, task: str) -> TaskResources:
        return self.per_task.get(task, self)

    @model_validator(mode="after")
    def _stacked_in_one_process(self) -> ResourcesSpec:
        if self.stacked == 1:
            return self
        for at, given in {"": self, **{f"per_task.{task}: ": given for task, given in self.per_task.items()}}.items():
            if given.workers > 1:
                raise ValueError(f"{at}stacked: {self.stacked} is for trials of one worker, got workers {given.workers}")
            if given.packing == "measured":
                raise ValueError(f"{at}packing: measured is for a single trial in each process, got stacked: {self.stacked}")
        if self.trainer == "ray_train":
            raise ValueError(f"trainer: ray_train gives each trial processes of its own, got stacked: {self.stacked}")
        return self
