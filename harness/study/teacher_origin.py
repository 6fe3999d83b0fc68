"""Where a teacher comes from, and which of its fields mean something then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.study.schema import TeacherSpec

ORIGINS = ("model", "config", "fine_tuned", "outputs")
_OF_A_MODEL = ("revision", "layers", "dropout", "tokenizer", "training", "training_per_task")
_WITHOUT_MEANING = {
    "model": ("output_kind", "labels"),
    "config": ("output_kind", "labels"),
    "fine_tuned": ("layers", "dropout", "training_per_task", "output_kind"),
    "outputs": (*_OF_A_MODEL, "seed"),
}


def check_origin(teacher: TeacherSpec) -> None:
    """Raises ValueError unless the teacher has one origin, and nothing beside it that would be passed over in silence."""
    given = [name for name in ORIGINS if getattr(teacher, name) is not None]
    if len(given) != 1:
        found = f", not {' and '.join(f'`{name}`' for name in given)} together" if given else ""
        raise ValueError(f"a teacher has one of `model`, `config`, `fine_tuned` and `outputs`{found}")
    (origin,) = given
    check_config(teacher.config)
    fields = type(teacher).model_fields
    for name in _WITHOUT_MEANING[origin]:
        if getattr(teacher, name) != fields[name].get_default(call_default_factory=True):
            raise ValueError(f"`{name}` means nothing for a teacher with `{origin}`; leave it out")
    if origin == "fine_tuned":
        _check_fine_tuned(teacher)


def check_config(config: dict[str, Any] | None) -> None:
    """Raises ValueError for a transformers configuration that does not say of which type it is."""
    if config is not None and "model_type" not in config:
        raise ValueError("`config` needs `model_type`, e.g. bert")


def _check_fine_tuned(teacher: TeacherSpec) -> None:
    trained = sorted(set(teacher.training.model_dump(exclude_defaults=True)) - {"precision"})
    if trained:
        raise ValueError(
            f"a teacher with `fine_tuned` is used as it is: of `training`, only `precision` may be given, not {trained[0]!r}"
        )
    if teacher.revision is not None and len(set((teacher.fine_tuned or {}).values())) > 1:
        raise ValueError("`revision` is of one repository, and `fine_tuned` names several; give each its own teacher")
