"""Any text-classification data set of the hub: its columns, classes and splits, where the study does not name them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.columns import MULTI_LABEL, REGRESSION, rows_from_frame
from harness.data.rows import Rows, TaskData
from harness.errors import DataError
from harness.hub import snapshot
from harness.study.data import DataSpec
from harness.study.schema_errors import nearest
from harness.study.tasks import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
"""Pairs of columns that are one task's text, in the order in which they are looked for; then one of `TEXT`."""
TEXT = ("text", "sentence")
LABEL = ("label", "labels")
VALIDATION = ("validation", "valid", "dev", "test")
"""Names of the report split where the study does not say which it is, in the order in which they are looked for."""
MOST_CLASSES = 500
"""More different values of a column are no classes."""


def complete(task: TaskSpec, spec: DataSpec, base: Path) -> TaskSpec:
    """The task with what it leaves out of `text`, `label` and `labels`, found in the data set. Raises DataError.

    Nothing is guessed that could be wrong without a sign: where two readings are possible, the error lists the columns.
    """
    if task.text and task.labels and "label" in task.model_fields_set:
        return task
    loaded = _load(spec, base)
    part = loaded[_splits(loaded, spec)["train"]]
    origin = _origin(spec)
    label = task.label if "label" in task.model_fields_set else _label_column(part.features, origin)
    for name in (*task.text, label):
        if name not in part.features:
            raise DataError(f"{origin}: no column {name!r}.{nearest(name, part.features)} Columns: {', '.join(part.features)}")
    text = task.text or _text_columns(part.features, label, origin)
    labels = task.labels or _classes(part, label, origin, unlabelled=spec.broken_rows == "drop")
    return task.model_copy(update={"text": text, "label": label, "labels": labels})


def load(task: TaskSpec, spec: DataSpec, base: Path) -> TaskData:
    """Rows of `spec.dataset`; ids are row numbers within a split. Raises DataError."""
    loaded = _load(spec, base)
    splits = _splits(loaded, spec)
    left_out = 0

    def rows(ours: str) -> Rows:
        nonlocal left_out
        part = loaded[splits[ours]]
        columns = [name for name in dict.fromkeys((*task.text, task.label)) if name in part.features]
        frame = with_label_names(part.select_columns(columns).to_pandas(), part.features, task).rename_axis("row")
        if task.label in frame and spec.broken_rows == "drop":
            labelled = ~(frame[task.label].isna() | (frame[task.label].astype(str) == "-1")).to_numpy(bool)
            left_out += int((~labelled).sum())
            frame = frame[labelled]
        return rows_from_frame(frame, task, f"{_origin(spec)}, split {spec.splits.get(ours, splits[ours])}")

    found = {ours: rows(ours) for ours in splits}
    named = {ours: spec.splits.get(ours, theirs) for ours, theirs in splits.items()}
    note = (
        f"{task.name} is {_origin(spec)}: text in {' and '.join(task.text)}, classes in {task.label} "
        f"({shortened(task.labels)}), {', '.join(f'{ours} = {theirs}' for ours, theirs in named.items())}"
    )
    dropped = f", without {left_out} rows that have no label" if left_out else ""
    return TaskData(found.pop("train"), found, origin=f"{_origin(spec)} on the hub{dropped}", notes=(note,))


def with_label_names(frame: pd.DataFrame, features: Any, task: TaskSpec) -> pd.DataFrame:
    """Label ids as names where the data set says what its ids mean: another copy may count them otherwise."""
    names = getattr(features.get(task.label), "names", None)
    if names is None:
        return frame
    by_id = dict(enumerate(names))
    return frame.assign(**{task.label: [by_id.get(value, value) for value in frame[task.label]]})


def fetch(name: str, configuration: str | None, revision: str | None, splits: dict[str, str] | None = None) -> Any:
    """Split -> `datasets.Dataset`, of a hub name or a local copy of a repository. Raises DataError, whose reason is one line.

    `datasets` reads a snapshot, and asks nobody: asked itself without a network, it takes whichever revision it saw last.
    """
    import datasets

    datasets.disable_progress_bars()  # they would write over the console
    try:
        return datasets.load_dataset(str(_folder(name, configuration, revision)), configuration, split=splits)
    except Exception as error:  # the library raises a dozen kinds, and wraps the network's
        reason = " ".join(str(error).partition("Example of usage")[0].split())
        given = re.search(r"(?:BuilderConfig|Unknown split) ['\"](.+?)['\"]", reason)
        known = re.findall(r"'([^']+)'", reason[reason.rfind("[") :]) if "[" in reason else []
        hint = nearest(given[1], known) if given else ""
        if "Config name is missing" in reason:
            reason = f"it has several configurations, name one of {known} with `config:`"
        part = f" (configuration {configuration!r})" if configuration else ""
        said = f"{reason or type(error).__name__}{hint}"
        raise DataError(f"the data set {name!r}{part} cannot be had from the hub: {said}") from error


def _folder(name: str, configuration: str | None, revision: str | None) -> Path:
    """The repository's card and its files, of the configuration alone where they are named after it. Raises HubError."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    cards, code = ["*.md", "*.json", "*.yaml"], ["*.py"]
    if configuration is not None:
        found = snapshot("dataset", name, revision, [*cards, f"*{configuration}*"], code)
        if any(path.is_file() and path.suffix not in (".md", ".json", ".yaml") for path in found.rglob("*")):
            return found
    return snapshot("dataset", name, revision, ["*"], code)


def shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", ... {len(names)} in all" if len(names) > most else "")


def _load(spec: DataSpec, base: Path) -> Any:
    assert spec.dataset is not None
    local = base / spec.dataset
    return fetch(str(local) if local.is_dir() else spec.dataset, spec.config, spec.hub_revision, spec.splits or None)


def _origin(spec: DataSpec) -> str:
    return f"{spec.dataset}{f'/{spec.config}' if spec.config else ''}"


def _splits(loaded: Any, spec: DataSpec) -> dict[str, str]:
    """Our names of splits -> those in `loaded`."""
    if spec.splits:
        return {ours: ours for ours in spec.splits}
    validation = next((name for name in VALIDATION if name in loaded), None)
    if "train" not in loaded or validation is None:
        raise DataError(
            f"{_origin(spec)}: needs a train split and one of {', '.join(VALIDATION)}, found {', '.join(loaded)}; say which is "
            'which with `splits: {train: ..., validation: ...}` (also parts: "train[:90%]" and "train[90%:]")'
        )
    return {"train": "train", "validation": validation}


def _label_column(features: Any, origin: str) -> str:
    classes = [name for name, feature in features.items() if hasattr(feature, "names")]
    if len(classes) == 1:
        return str(classes[0])
    found = [name for name in LABEL if name in (classes or features)]
    if len(found) == 1:
        return found[0]
    raise DataError(f"{origin}: which column holds the label? Name it with `label:`; columns: {', '.join(features)}")


def _text_columns(features: Any, label: str, origin: str) -> list[str]:
    strings = [name for name, feature in features.items() if name != label and _kind(feature) in ("string", "large_string")]
    for pair in TEXTS:
        if set(pair) <= set(strings):
            return list(pair)
    found = [name for name in TEXT if name in strings] or strings
    if len(found) != 1:
        raise DataError(
            f"{origin}: which one or two columns hold the text? Name them with `text: [...]`; columns of text: "
            f"{', '.join(strings) or 'none'}"
        )
    return found


def _classes(part: Any, label: str, origin: str, unlabelled: bool) -> list[str]:
    """`unlabelled`: rows without a label are allowed."""
    feature = part.features[label]
    if hasattr(feature, "names"):
        return [str(name) for name in feature.names]
    kind = _kind(feature)
    if kind is None:
        raise DataError(f"{origin}: the column {label!r} holds lists: {MULTI_LABEL}")
    values = part.unique(label)
    if unlabelled:
        values = [value for value in values if value is not None and str(value) != "-1"]
    if any(isinstance(value, float) and not float(value).is_integer() for value in values):
        raise DataError(f"{origin}: the column {label!r} holds numbers such as {_fraction(values)}: {REGRESSION}")
    if None in values:
        raise DataError(f"{origin}: rows without a label in {label!r}; leave them out with `broken_rows: drop`")
    if len(values) > min(MOST_CLASSES, len(part) / 2):
        raise DataError(
            f"{origin}: the column {label!r} holds {len(values):,} different values in {len(part):,} rows, which are no "
            f"classes; name the right column with `label:`; columns: {', '.join(part.features)}"
        )
    numbers = all(isinstance(value, int | float) for value in values)
    return [str(int(value) if numbers else value) for value in sorted(values)]


def _fraction(values: Sequence[Any]) -> float:
    return round(float(next(value for value in values if value is not None and not np.equal(value % 1, 0))), 6)


def _kind(feature: Any) -> str | None:
    """The type of a column's values; None for a list or a mapping."""
    return getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else None
