"""A teacher's cached outputs, read by example id.

They lie in `cache/teachers/<digest>/`: `teacher.json`, `train_ids.npy` (sorted), `train_logits.npy`, what else strategies and
loss terms want (`harness.data.output_names`), and the fine-tuned model. Never by batch: batches are made anew every epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.checksums import check, content_digest
from harness.data.labelled_rows import CachedRows
from harness.data.output_names import FEATURES
from harness.records import Score

ABOUT, IDS, LOGITS = "teacher.json", "train_ids.npy", "train_logits.npy"


@dataclass(frozen=True)
class TeacherOutputs:
    ids: np.ndarray
    """[rows] int64, sorted: all rows of fit, meta and select."""
    all_logits: np.ndarray
    """[rows, classes] float32, memory-mapped."""
    others: Mapping[str, np.ndarray]
    """Name -> [rows, ...], memory-mapped."""
    report: dict[str, Score]
    """The teacher's own scores on the report splits."""
    parameters: int
    hidden_size: int
    content: str
    """Digest of `ids` and `all_logits`: two trainings of one recipe may come out different."""

    @classmethod
    def load(cls, cache: Path, digest: str, outputs: Sequence[str] = ()) -> TeacherOutputs:
        """Raises FileNotFoundError where `harness.teachers.fine_tuning` has not made them, DamagedCacheError where they are
        not what it made.
        """
        folder = teacher_folder(cache, digest)
        check(folder, [ABOUT, IDS, LOGITS, *(f"train_{name}.npy" for name in outputs)])
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        return cls(
            ids=np.load(folder / IDS),
            all_logits=np.load(folder / LOGITS, mmap_mode="r"),
            others={name: np.load(folder / f"train_{name}.npy", mmap_mode="r") for name in outputs},
            report={split: Score.model_validate(score) for split, score in about["report"].items()},
            parameters=about["parameters"],
            hidden_size=about["hidden_size"],
            content=content_digest(folder, [IDS, LOGITS]),
        )

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """[rows, classes] for the given example ids. Raises KeyError for an id the teacher never saw."""
        return np.asarray(self.all_logits[self._rows(ids)])

    def features(self, ids: np.ndarray) -> np.ndarray:
        """[rows, hidden] for the given example ids."""
        return np.asarray(self.others[FEATURES][self._rows(ids)])

    def cached(self, name: str, ids: np.ndarray) -> CachedRows:
        """Another output's rows for the given example ids, read when they are used."""
        return CachedRows(self.others[name], self._rows(ids))

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        rows = np.searchsorted(self.ids, ids)
        found = self.ids[np.minimum(rows, len(self.ids) - 1)] == ids
        if not found.all():
            raise KeyError(f"no teacher output for example {int(np.asarray(ids)[~found][0])}")
        return rows


def teacher_folder(cache: Path, digest: str) -> Path:
    return cache / "teachers" / digest
