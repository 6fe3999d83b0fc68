"""A teacher's cached outputs, read by example id.

They lie in `cache/teachers/<digest>/`: `teacher.json`, `train_ids.npy` (sorted), `train_logits.npy`, optionally
`train_features.npy`, and the fine-tuned model. Never by batch: batches are made anew every epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.records import Score


@dataclass(frozen=True)
class TeacherOutputs:
    ids: np.ndarray
    """[rows] int64, sorted: all rows of fit, meta and select."""
    all_logits: np.ndarray
    """[rows, classes] float32, memory-mapped."""
    all_features: np.ndarray | None
    """[rows, hidden] float32, memory-mapped."""
    report: dict[str, Score]
    """The teacher's own scores on the report splits."""
    parameters: int
    hidden_size: int

    @classmethod
    def load(cls, cache: Path, digest: str, features: bool = False) -> TeacherOutputs:
        """Raises FileNotFoundError where `harness.teachers` has not made them."""
        folder = teacher_folder(cache, digest)
        about = json.loads((folder / "teacher.json").read_text("utf-8"))
        return cls(
            ids=np.load(folder / "train_ids.npy"),
            all_logits=np.load(folder / "train_logits.npy", mmap_mode="r"),
            all_features=np.load(folder / "train_features.npy", mmap_mode="r") if features else None,
            report={split: Score.model_validate(score) for split, score in about["report"].items()},
            parameters=about["parameters"],
            hidden_size=about["hidden_size"],
        )

    @property
    def has_features(self) -> bool:
        return self.all_features is not None

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """[rows, classes] for the given example ids. Raises KeyError for an id the teacher never saw."""
        return np.asarray(self.all_logits[self._rows(ids)])

    def features(self, ids: np.ndarray) -> np.ndarray:
        """[rows, hidden] for the given example ids."""
        if self.all_features is None:
            raise KeyError("this teacher's features were not asked for when it was loaded")
        return np.asarray(self.all_features[self._rows(ids)])

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        rows = np.searchsorted(self.ids, ids)
        found = self.ids[np.minimum(rows, len(self.ids) - 1)] == ids
        if not found.all():
            raise KeyError(f"no teacher output for example {int(np.asarray(ids)[~found][0])}")
        return rows


def teacher_folder(cache: Path, digest: str) -> Path:
    return cache / "teachers" / digest
