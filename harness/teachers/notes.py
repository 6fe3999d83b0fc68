"""What the terminal says of teachers and heads that were trained elsewhere: nothing that is wrong for sure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.data.roles import load_training_rows
from harness.data.teacher_outputs import TeacherOutputs
from harness.models.own_head import head_note
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.study.schema import ModelSpec
from harness.training.majority import majority_scores


def head_notes(plan: Plan) -> list[str]:
    """Of models that start with somebody else's head."""
    models: list[tuple[str, ModelSpec]] = [("the student", plan.study.models.student)]
    models += [(f"teacher {one.name!r}", one) for one in plan.used_teachers if not one.trained_elsewhere]
    found = [head_note(spec, task.labels, f"{task.name}: {shown}") for task in plan.tasks for shown, spec in models]
    return [note for note in found if note is not None]


def doubtful_teachers(plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path) -> list[str]:
    """Of teachers from elsewhere that know less of the training rows than their most frequent label."""
    found = []
    for task in plan.tasks:
        ready = prepared[task.name]
        for teacher in plan.used_teachers:
            if not teacher.trained_elsewhere or teacher.name in ready.teacher_errors:
                continue
            rows = load_training_rows(cache, ready.data_digest)
            always = majority_scores(rows, {"fit": rows.fit}, task)["fit"].metrics[task.headline_metric]
            outputs = TeacherOutputs.load(cache, ready.teacher_digests[teacher.name])
            score = outputs.report["fit"].metrics[task.headline_metric]
            if score <= always:
                found.append(
                    f"teacher {teacher.name!r} of {task.name} has {score:.3f} ({task.headline_metric}) on the training "
                    f"rows, where always saying the most frequent class has {always:.3f}: are its classes or rows mixed up?"
                )
    return found
