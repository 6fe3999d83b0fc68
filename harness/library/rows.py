"""A tokenised data set of the user's, as the rows that the harness works on."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.data.encode import Encoded, _special_tokens
from harness.data.labelled_rows import LabelledRows

NEEDED = ("id", "input_ids", "labels")


def _whole(name: str, value: Any, row: int) -> int:
    """Raises ValueError for what is no whole number: 0.5 would become the class 0."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"row {row} has the {name} {value!r}; a whole number is expected") from None


def rows_from_features(
    features: Iterable[Mapping[str, Any]], teacher_logits: np.ndarray | Sequence[np.ndarray], tokenizer: Any
) -> LabelledRows:
    """Labelled rows with what the teachers say of them.

    features        rows of a map-style data set, each with `id` (an integer, unique), `input_ids` (not padded), `labels` (the
                    class's number) and, where the tokenizer makes them, `token_type_ids`
    teacher_logits  [rows, classes], or [teachers, rows, classes] for several teachers, in the order of `features`
    tokenizer       that made them: its padding token, and which tokens stand for no word

    Raises ValueError for a tokenizer without a padding token, the first row with something missing or a label that is no class,
    an id that is there twice, and logits that are not finite or of another shape.
    """
    given = list(features)
    if not given:
        raise ValueError("there are no rows")
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; batches need one")
    for number, row in enumerate(given):
        if lacking := [name for name in NEEDED if name not in row]:
            raise ValueError(f"row {number} has no {' and no '.join(map(repr, lacking))}; it has {', '.join(row)}")
        if 0 in row.get("attention_mask", ()):
            raise ValueError(
                f"row {number} is padded, and a look-ahead would attend to its padding: tokenize without `padding`"
            )
    logits = np.asarray(teacher_logits, dtype=np.float32)
    logits = logits[None] if logits.ndim == 2 else logits
    if logits.ndim != 3 or logits.shape[1] != len(given):
        raise ValueError(
            f"teacher_logits has shape {np.shape(teacher_logits)}; [rows, classes] or [teachers, rows, classes] is expected, "
            f"for {len(given)} rows in the order of the data set"
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"teacher_logits of row {np.argwhere(~np.isfinite(logits))[0][1]} are not finite")
    ids = np.array([_whole("id", row["id"], number) for number, row in enumerate(given)], np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"{counts.max()} rows have the id {values[counts.argmax()]}")
    labels = np.array([_whole("labels", row["labels"], number) for number, row in enumerate(given)], np.int64)
    if (wrong := (labels < 0) | (labels >= logits.shape[2])).any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"row {first} has the label {labels[first]}, and the teachers have the classes 0 to {logits.shape[2] - 1}"
        )
    lengths = np.array([len(row["input_ids"]) for row in given], np.int32)
    has_types = "token_type_ids" in given[0]
    return LabelledRows(
        Encoded(
            ids=ids,
            labels=labels,
            flipped=None,
            lengths=lengths,
            tokens=np.concatenate([np.asarray(row["input_ids"], np.int32) for row in given]),
            segments=np.concatenate([np.asarray(row["token_type_ids"], np.int8) for row in given]) if has_types else None,
            starts=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]),
            pad_token=int(tokenizer.pad_token_id),
            special_tokens=_special_tokens(tokenizer),
        ),
        logits,
    )
