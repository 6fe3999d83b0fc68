"""What went wrong in a trial, in a class that decides what happens next, and the record that a failed trial leaves.

infrastructure (a lost process or node, a file that cannot be read): tried again `resources.retries` times, from the last
checkpoint. device (a CUDA error): every later call of the process would fail as well, so it is given up, and the trial is tried
again once in another. out_of_memory: halved micro-batches did not help (`harness.training.out_of_memory`), so it is recorded,
as are diverged and bug: they would only fail again. teacher: a teacher could not be made; its trials are recorded without being
run. All of them are run again when the study is. A full disk ends the study: the next trial would meet it too.
"""

from __future__ import annotations

import errno
import traceback
from datetime import UTC, datetime
from typing import Literal

from harness.errors import UserError
from harness.records import ErrorRecord, Score, TrialRecord, TrialSpec

Kind = Literal["out_of_memory", "infrastructure", "device", "diverged", "bug", "teacher"]

RETRIED: frozenset[Kind] = frozenset({"infrastructure"})
"""A lost worker or node is not the method's fault. Anything else would only fail again."""


OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "_ALLOCATION_FAILED",  # cuDNN 9
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # its workspace finds no room
    "'out of memory'",  # NCCL: Cuda failure 2 'out of memory'
)
"""In messages of plain RuntimeErrors and AcceleratorErrors."""

DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "HIP error")
"""Likewise of errors after which a process cannot use its GPU any more."""

DISK_FULL = "DiskFullError"
"""Type of the error record for it."""


class DivergedError(Exception):
    """A loss, a weight or a score that is not a finite number."""


class TeacherError(Exception):
    """A teacher that the trial needs could not be made."""


class ChangedCodeError(Exception):
    """Code that is not what the trial was planned with: its result would carry a wrong name."""


def classify(error: BaseException) -> ErrorRecord:
    """The record of an error raised by a trial in this process."""
    return ErrorRecord(
        kind=_kind(error),
        type=DISK_FULL if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) else type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
    )


def is_retried(error: ErrorRecord) -> bool:
    """Whether the same trial may end well the next time."""
    return error.kind in RETRIED and error.type != DISK_FULL


def failed_record(spec: TrialSpec, error: ErrorRecord, majority: dict[str, Score]) -> TrialRecord:
    """What the store keeps of a trial that failed for good; it scores the majority-class predictor."""
    return TrialRecord(
        key=spec.key,
        status="failed",
        spec=spec,
        objective=None,
        majority=majority,
        error=error,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the operating system has no memory left: libraries below PyTorch say it in words of their own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def is_device_error(error: BaseException) -> bool:
    """Whether the GPU failed in another way than for want of memory. CUDA's own errors stay: later calls raise them, too."""
    if is_out_of_memory(error):
        return False
    named = type(error).__name__ == "AcceleratorError"
    return named or (isinstance(error, RuntimeError) and any(text in str(error) for text in DEVICE))


def _kind(error: BaseException) -> Kind:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, TeacherError):
        return "teacher"
    if is_out_of_memory(error):
        return "out_of_memory"
    if is_device_error(error):
        return "device"
    if isinstance(error, OSError) and not isinstance(error, UserError):
        return "infrastructure"
    return "bug"
