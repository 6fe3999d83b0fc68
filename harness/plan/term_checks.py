"""Whether a study can provide what the loss terms of its strategies need. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import StudyError
from harness.loss_terms.registry import TermError, look_ahead_refusal, needs_of_terms, step_refusal
from harness.plan.foreign_teachers import outputs_refusal
from harness.study.schema import ModelSpec, Study, TeacherSpec
from harness.study.yaml_lines import KeyPath
from strategies.base import Needs


def check_terms(
    study: Study, strategy: str, needs: Sequence[Needs], teachers: Sequence[TeacherSpec], where: KeyPath
) -> frozenset[str]:
    """The outputs that the strategy wants of its teachers beside logits, with any of the given needs. Raises StudyError."""
    outputs: set[str] = set()
    workers = max(one.workers for one in (study.resources, *study.resources.per_task.values()))
    for one in needs:
        try:
            wanted = needs_of_terms(one)
        except TermError as error:
            raise StudyError(f"strategy {strategy!r}: {error}", where) from error
        if reason := look_ahead_refusal(wanted, one.look_ahead, workers):
            raise StudyError(f"strategy {strategy!r} with the loss terms {', '.join(one.terms)}: {reason}", where)
        if reason := step_refusal(one.look_ahead_options):
            raise StudyError(f"strategy {strategy!r}: {reason}", where)
        if reason := outputs_refusal(wanted, one.terms, teachers):
            raise StudyError(f"strategy {strategy!r}: {reason}", where)
        if wanted.same_architecture:
            _check_architecture(study.models.student, strategy, one.terms, teachers, where)
        outputs |= set(wanted.teacher_outputs)
    return frozenset(outputs)


def check_range(strategy: str, setting: str, ends: Sequence[Needs], where: KeyPath) -> None:
    """Raises StudyError for a range over a setting that decides what teachers cache: values between its ends would lack it."""
    try:
        found = {needs_of_terms(one).teacher_outputs for one in ends}
    except TermError:
        return  # said by `check_terms`
    if len(found) > 1:
        raise StudyError(
            f"{setting} of {strategy!r} decides which teacher outputs are cached before training, so it is searched over "
            "single values: {type: choice, values: [...]}",
            where,
        )


def _check_architecture(
    student: ModelSpec, strategy: str, terms: Sequence[str], teachers: Sequence[TeacherSpec], where: KeyPath
) -> None:
    for teacher in teachers:
        different = [name for name in ("model", "config", "layers") if getattr(teacher, name) != getattr(student, name)]
        if different:
            raise StudyError(
                f"strategy {strategy!r} (loss terms {', '.join(terms)}) learns from a teacher of the student's own "
                f"architecture, and the teacher {teacher.name!r} differs from the student in {', '.join(different)}. Add a "
                "teacher `{name: self, architecture: student}` and choose it with `teachers: [self]` under the strategy",
                where,
            )
