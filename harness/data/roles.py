"""Roles: which labelled rows may be used for what. Cut once per (rows, settings), the same for every strategy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from harness.checksums import check, sealed_folder
from harness.data.rows import FitRows, MetaRows, ReportRows, Rows, SelectRows, TaskData, TeacherRows, TrainingRows, join_rows
from harness.digest import digest
from harness.errors import DataError
from harness.study.data import SURPLUS, DataSpec
from harness.study.tasks import TaskSpec

R = TypeVar("R", bound=Rows)
ROLES_OF_TRAINING = tuple(rows.role for rows in (FitRows, MetaRows, SelectRows, TeacherRows))


@dataclass(frozen=True)
class Roles:
    training: TrainingRows
    teacher: TeacherRows | None
    """What the teachers train on; None where that is `fit`."""
    report: dict[str, ReportRows]
    digests: dict[str, str]
    """Role or report split -> digest of its rows' ids, text, labels and flips."""

    @property
    def for_training(self) -> dict[str, Rows]:
        """Role -> rows, of those that students or teachers may see."""
        return _by_role(self.training, self.teacher)

    @property
    def digest(self) -> str:
        """Digest of all roles together."""
        return digest(self.digests)


def cut_roles(data: TaskData, spec: DataSpec, classes: int) -> Roles:
    """Cap the rows, then cut `select` and `meta` off the training split, each stratified by label, and flip `fit` labels.

    The teachers' own rows come from what the cap leaves out, so that `select` and `meta` are held out for them, too.
    `report` is the official validation split, and the rows of `report_from_train`. Everything is a pure function of the rows
    and `spec`.
    Raises DataError where a role would be without rows.
    """
    train = _capped(data.train, spec.train_rows, spec.seed)
    generator = np.random.default_rng([spec.seed, 1])
    select_rows = min(spec.select_rows_at_most, round(len(train) * spec.select_fraction))
    meta_rows = min(spec.meta_rows_at_most, round(len(train) * spec.meta_fraction))
    select, rest = _split(train.labels, np.arange(len(train)), select_rows, generator)
    meta, fit = _split(train.labels, rest, meta_rows, generator)
    for role, rows in (("select", select), ("meta", meta), ("fit", fit)):
        if not len(rows):
            raise DataError(f"{data.origin}: {len(train)} training rows leave none for the role {role!r}")
    training = TrainingRows(
        fit=_flip(_as(FitRows, train.take(fit)), spec, classes, stream=2),
        meta=_as(MetaRows, train.take(meta)),
        select=_as(SelectRows, train.take(select)),
    )
    report = {split: _as(ReportRows, _capped(rows, spec.report_rows, spec.seed)) for split, rows in data.report.items()}
    teacher = _teacher_rows(data, train, training.fit, spec, classes)
    if spec.report_from_train:
        report[SURPLUS] = _surplus_rows(data, train if teacher is None else join_rows(Rows, train, teacher), spec)
    parts = {**_by_role(training, teacher), **report}
    return Roles(training, teacher, report, {name: rows_digest(part) for name, part in parts.items()})


def rows_digest(rows: Rows) -> str:
    """Digest of ids, text, labels and flips, in order."""
    content = hashlib.sha256()
    for column in rows.texts:
        for text in column:
            encoded = text.encode()
            content.update(len(encoded).to_bytes(4, "little") + encoded)
    content.update(np.ascontiguousarray(rows.ids, np.int64).tobytes())
    content.update(np.ascontiguousarray(rows.labels, np.int64).tobytes())
    if rows.flipped is not None:
        content.update(np.packbits(rows.flipped).tobytes())
    return content.hexdigest()[:24]


def save_roles(roles: Roles, cache: Path) -> None:
    """Write the rows into `cache/data/<digest>/`, whole or not at all."""
    folder = rows_folder(cache, roles.digest)
    if folder.exists():
        return
    with sealed_folder(folder) as unfinished:
        for role, rows in roles.for_training.items():
            _write(rows, unfinished / f"{role}.parquet")
        for split, report in roles.report.items():
            _write(report, unfinished / f"report-{split}.parquet")
        (unfinished / "digests.json").write_text(json.dumps(roles.digests, indent=1), "utf-8")


def load_training_rows(cache: Path, digest: str) -> TrainingRows:
    """What training may see. Raises FileNotFoundError where `save_roles` has not been, DamagedCacheError, as all that reads
    rows, where they are not what it wrote.
    """
    folder = rows_folder(cache, digest)
    return TrainingRows(
        fit=_read(FitRows, folder / "fit.parquet"),
        meta=_read(MetaRows, folder / "meta.parquet"),
        select=_read(SelectRows, folder / "select.parquet"),
    )


def load_teacher_rows(cache: Path, digest: str) -> FitRows | TeacherRows:
    """What teachers train on. Raises FileNotFoundError where `save_roles` has not been."""
    file = rows_folder(cache, digest) / f"{TeacherRows.role}.parquet"
    return _read(TeacherRows, file) if file.exists() else _read(FitRows, file.with_name("fit.parquet"))


def load_report_rows(cache: Path, digest: str) -> dict[str, ReportRows]:
    """Report split -> rows; for a finished student only."""
    folder = rows_folder(cache, digest)
    names = [name for name in json.loads((folder / "digests.json").read_text("utf-8")) if name not in ROLES_OF_TRAINING]
    return {name: _read(ReportRows, folder / f"report-{name}.parquet") for name in names}


def _capped(rows: Rows, cap: int | None, seed: int) -> Rows:
    """At most `cap` rows, by id: neither the cap nor what is cut later depends on how the source orders its rows."""
    rows = rows.take(np.argsort(rows.ids, kind="stable"))
    if cap is None or cap >= len(rows):
        return rows
    chosen, _ = _split(rows.labels, np.arange(len(rows)), cap, np.random.default_rng([seed, 0]))
    return rows.take(np.sort(chosen))


def _split(labels: np.ndarray, rows: np.ndarray, wanted: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split `rows` into `wanted` rows with the labels' proportions, and the others."""
    shuffled = generator.permutation(rows)
    # rows sorted by (rank within their label / size of the label) interleave the labels in proportion
    order = np.zeros(len(shuffled))
    for label in np.unique(labels[shuffled]):
        mine = np.flatnonzero(labels[shuffled] == label)
        order[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    by_share = shuffled[np.argsort(order, kind="stable")]
    return by_share[:wanted], by_share[wanted:]


def _by_role(training: TrainingRows, teacher: TeacherRows | None) -> dict[str, Rows]:
    found: list[Rows] = [training.fit, training.meta, training.select]
    return {rows.role: rows for rows in (found if teacher is None else [*found, teacher])}


def _teacher_rows(data: TaskData, train: Rows, fit: FitRows, spec: DataSpec, classes: int) -> TeacherRows | None:
    if not spec.teacher_rows:
        return None
    left_out = data.train.take(np.flatnonzero(~np.isin(data.train.ids, train.ids)))
    if not len(left_out):
        raise DataError(
            f"{data.origin}: data.teacher_rows is {spec.teacher_rows}, but data.train_rows leaves out none of the "
            f"{len(train)} training rows. Set a lower cap train_rows, or leave teacher_rows out: teachers train on `fit` then."
        )
    own = _capped(left_out, spec.teacher_rows, spec.seed)
    return join_rows(TeacherRows, fit, _flip(_as(TeacherRows, own), spec, classes, stream=3))


def _surplus_rows(data: TaskData, used: Rows, spec: DataSpec) -> ReportRows:
    """Of the training split, rows that nobody trains on or chooses by, and none whose label is wrong on purpose."""
    usable = ~np.isin(data.train.ids, used.ids)
    if data.train.flipped is not None:
        usable &= ~data.train.flipped
    left_out = data.train.take(np.flatnonzero(usable))
    if len(left_out) < spec.report_from_train:
        raise DataError(
            f"{data.origin}: data.report_from_train is {spec.report_from_train}, but students and teachers leave "
            f"{len(left_out)} of the {len(data.train)} training rows. Set lower caps train_rows and teacher_rows, or "
            "report_from_train: 0 for this task (`data_per_task`)"
        )
    chosen = _capped(left_out, spec.report_from_train, spec.seed)
    return ReportRows(chosen.ids, chosen.texts, chosen.labels)


def _flip(rows: R, spec: DataSpec, classes: int, stream: int) -> R:
    if spec.label_noise == 0:
        return rows
    generator = np.random.default_rng([spec.seed, stream])
    flipped = np.zeros(len(rows), bool) if rows.flipped is None else rows.flipped.copy()
    # a row that the source has flipped already could be flipped back to its right label
    chosen = generator.permutation(np.flatnonzero(~flipped))[: round(len(rows) * spec.label_noise)]
    labels = rows.labels.copy()
    labels[chosen] = (labels[chosen] + generator.integers(1, classes, len(chosen))) % classes
    flipped[chosen] = True
    return type(rows)(rows.ids, rows.texts, labels, flipped)


def _as(role: type[R], rows: Rows) -> R:
    return role(rows.ids, rows.texts, rows.labels, rows.flipped)


def rows_folder(cache: Path, digest: str) -> Path:
    return cache / "data" / digest


def _write(rows: Rows, file: Path) -> None:
    columns: dict[str, object] = {"id": rows.ids, "label": rows.labels}
    columns |= {f"text{i}": column for i, column in enumerate(rows.texts)}
    if rows.flipped is not None:
        columns["flipped"] = rows.flipped
    pd.DataFrame(columns).to_parquet(file, index=False)


def _read(role: type[R], file: Path) -> R:
    check(file.parent, [file.name])
    frame = pd.read_parquet(file)
    texts = tuple(frame[name].tolist() for name in ("text0", "text1") if name in frame)
    flipped = frame["flipped"].to_numpy() if "flipped" in frame else None
    return role(frame["id"].to_numpy(copy=True), texts, frame["label"].to_numpy(copy=True), flipped)


def class_notes(task: TaskSpec, data: TaskData, roles: Roles) -> list[str]:
    """Lines for the terminal on roles that lack a class. Raises DataError for a class that no training row has.

    Nobody could learn such a class, and a score would count it: most often it is a name that the file writes otherwise.
    """
    if absent := _without_rows(task, data.train):
        raise DataError(
            f"{data.origin}: none of the {len(data.train):,} training rows of {task.name} is labelled {' or '.join(absent)}, "
            f"and `labels` names {'them' if len(absent) > 1 else 'it'}; leave out what cannot be learned"
        )
    notes = []
    for role, rows in {**roles.for_training, **roles.report}.items():
        if absent := _without_rows(task, rows):
            notes.append(f"none of the {len(rows):,} {role} rows of {task.name} is labelled {' or '.join(absent)}")
    return notes


def _without_rows(task: TaskSpec, rows: Rows) -> list[str]:
    counts = np.bincount(rows.labels, minlength=len(task.labels))
    return [name for name, count in zip(task.labels, counts, strict=True) if not count]
