"""What is known of a task once its rows and teachers are ready. No torch, no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.records import ErrorRecord, Score, TrialSpec
from harness.training.failures import TeacherError


@dataclass(frozen=True)
class PreparedTask:
    data_digest: str
    digests: dict[str, str]
    """Role or report split -> digest of its rows."""
    rows: dict[str, int]
    """Role or report split -> number of rows."""
    origin: str
    """Where the rows came from, for captions."""
    majority: dict[str, Score]
    """Report split -> score of always saying the most frequent fit label: what a failed trial scores."""
    student_digest: str
    teacher_digests: dict[str, str]
    """Teacher name -> digest of everything that determines its outputs."""
    hub_commits: dict[str, str] = field(default_factory=dict)
    """As `harness.hub.commits` says."""
    teacher_errors: dict[str, ErrorRecord] = field(default_factory=dict)
    """Teachers that could not be made: the trials that want them are recorded as failed."""


def require_teachers(spec: TrialSpec, prepared: PreparedTask) -> None:
    """Raises TeacherError where a teacher that the trial uses could not be made."""
    for teacher in spec.teachers:
        if (error := prepared.teacher_errors.get(teacher.name)) is not None:
            raise TeacherError(f"teacher {teacher.name!r} of {spec.task.name} could not be made: {error.type}: {error.message}")
