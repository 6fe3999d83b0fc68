"""A strategy and its loss terms, made for a model and rows that the harness did not prepare, or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from harness.data.labelled_rows import LabelledRows
from harness.loss_terms.base import TermNeeds, TermSetup
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.registry import needs_of_terms
from harness.models.build import hidden_size
from harness.study.schema_errors import nearest
from strategies import resolve
from strategies.base import Needs, RoleView, Setup, Strategy
from strategies.registry import Registered


@dataclass(frozen=True)
class Made:
    strategy: Strategy[Any]
    needs: Needs
    terms: LossTerms


def make_strategy(
    name: str,
    model: nn.Module,
    train: LabelledRows,
    meta: LabelledRows | None,
    settings: Mapping[str, Any] | None,
    total_steps: int,
    epochs: int,
    temperature: float,
    precision: str,
    seed: int,
) -> Made:
    """Arguments as of `StrategyLoss`. Raises ValueError for what cannot be."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision is {precision!r}; it can be 'fp32' or 'bf16'")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if not 1 <= epochs <= total_steps:
        raise ValueError(f"{epochs} epochs in total_steps={total_steps}: an epoch has a step at least")
    registered = resolve(name)
    values = _settings(registered, settings)
    needs = registered.needs(values)
    teachers, _, classes = train.teacher_logits.shape
    if reason := _refusal(registered, values, needs, train, meta, model):
        raise ValueError(f"strategy {name!r}: {reason}")
    if lacking := _not_here(needs_of_terms(needs)):
        raise ValueError(
            f"strategy {name!r} needs {' and '.join(lacking)}, which only a study prepares: `python -m harness run`"
        )
    device = next(model.parameters()).device
    config: Any = model.config
    setup = Setup(
        classes=classes,
        teachers=tuple(f"teacher{k}" for k in range(teachers)),
        epochs=epochs,
        steps_per_epoch=-(-total_steps // epochs),
        temperature=temperature,
        fit=_view(train),
        meta=_view(meta) if meta is not None and needs.needs_meta_set else None,
        student_hidden_size=hidden_size(model),
        teacher_hidden_sizes=(0,) * teachers,
        seed=seed,
        device=device,
    )
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    layers, size = int(config.num_hidden_layers), hidden_size(model)
    terms = LossTerms(needs, TermSetup(classes, layers, size, int(embedding.num_embeddings), train, seed, device))
    if terms.parameters:
        raise ValueError(f"strategy {name!r} has loss terms with parameters of their own, which only a study trains")
    return Made(registered.create(values, setup), needs, terms)


def _settings(registered: Registered, given: Mapping[str, Any] | None) -> Any:
    try:
        return registered.settings(given)
    except ValidationError as error:
        first = error.errors()[0]
        where, allowed = ".".join(str(part) for part in first["loc"]), list(registered.strategy.Settings.model_fields)
        unknown = first["type"] == "extra_forbidden"
        said = f"there is no such setting.{nearest(where, allowed)}" if unknown else f"{first['msg']}."
        raise ValueError(
            f"strategy {registered.name!r}, setting {where!r}: {said} Settings: {', '.join(allowed) or 'none'}"
        ) from None


def _refusal(
    registered: Registered, values: Any, needs: Needs, train: LabelledRows, meta: LabelledRows | None, model: nn.Module
) -> str | None:
    teachers, _, classes = train.teacher_logits.shape
    few, many = needs.teachers
    if teachers < few or (many is not None and teachers > many):
        wanted = f"{few} or more" if many is None else str(few) if few == many else f"{few} to {many}"
        return f"it takes {wanted} teachers, and teacher_logits has {teachers}"
    outputs = getattr(model.config, "num_labels", classes)
    if outputs != classes:
        return f"the student has {outputs} outputs, and the teachers have {classes} classes"
    if needs.needs_meta_set:
        if meta is None:
            return "it needs labelled rows that are not trained on: give `meta=rows_from_features(...)`"
        if meta.teacher_logits.shape[::2] != (teachers, classes):
            return f"`meta` has logits of shape {meta.teacher_logits.shape}, for {teachers} teachers and {classes} classes"
        if shared := np.intersect1d(meta.encoded.ids, train.encoded.ids).size:
            return f"{shared} ids of `meta` are in the training rows, too: a meta set is rows that are not trained on"
    if needs.look_ahead is not None and (kinds := {str(p.dtype) for p in model.parameters() if p.requires_grad} - _FULL):
        return (
            f"its look-ahead steps between parameters in full precision, and these are in {', '.join(sorted(kinds))}: load the "
            "student with dtype=torch.float32, and train in bf16 by autocast (precision='bf16')"
        )
    return registered.refuses_teachers(values, dict.fromkeys((f"teacher{k}" for k in range(teachers)), None))


_FULL = {"torch.float32", "torch.float64"}


def _not_here(wanted: TermNeeds) -> list[str]:
    asked = {
        "the student's logits on parts of the input": wanted.parts,
        "words dropped from the student's inputs": bool(wanted.word_drop),
        "teachers of the student's architecture": wanted.same_architecture,
        f"the teachers' {', '.join(wanted.teacher_outputs)}": bool(wanted.teacher_outputs),
    }
    return [what for what, is_asked in asked.items() if is_asked]


def _view(rows: LabelledRows) -> RoleView:
    return RoleView(
        torch.from_numpy(rows.encoded.ids), torch.from_numpy(rows.encoded.labels), torch.from_numpy(rows.teacher_logits)
    )
