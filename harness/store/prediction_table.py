"""Per-example predictions as Parquet and Arrow tables. No pandas, no Arrow before the first call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.store.files import DamagedError, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

PREDICTION_COLUMNS = ("split", "id", "label", "predicted")
"""Beside these, one column for each class: p0, p1, ..."""


def probability_columns(names: list[str]) -> list[str]:
    return [name for name in names if name not in PREDICTION_COLUMNS]


def to_parquet(predictions: pd.DataFrame) -> bytes:
    """The content of a trial's file: zstd, probabilities as float16. Raises ValueError where a column is missing."""
    missing = [name for name in PREDICTION_COLUMNS if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions lack the columns {missing}; they have {list(predictions.columns)}")
    types = {"split": "category", "id": "int64", "label": "int16", "predicted": "int16"}
    halves = dict.fromkeys(probability_columns(list(predictions.columns)), "float16")
    buffer = BytesIO()
    predictions.astype(types | halves).to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()


def from_parquet(content: bytes, columns: Sequence[str] | None = None) -> Any:
    """pyarrow.Table [rows] of a trial's file; all columns where `columns` is None."""
    import pyarrow.parquet as pq

    return (
        pq.ParquetFile(BytesIO(content)).read(columns=None if columns is None else list(columns)).replace_schema_metadata(None)
    )


def to_frame(table: Any) -> pd.DataFrame:
    """The column `split` as text, probabilities as float32."""
    frame: pd.DataFrame = table.to_pandas()
    return frame.astype({"split": str} | dict.fromkeys(probability_columns(list(frame.columns)), "float32"))


def split_arrays(table: Any, split: str, probabilities: bool) -> tuple[NDArray[Any], ...]:
    """Of one split's rows, by id: ids, labels and predicted classes, each int64 [rows]; with `probabilities`, float32
    [rows, classes] of them too.
    """
    import numpy as np
    import pyarrow.compute as pc

    table = table.filter(pc.equal(table["split"], split))
    ids, labels, predicted = (table[name].to_numpy().astype(np.int64) for name in PREDICTION_COLUMNS[1:])
    order = np.argsort(ids, kind="stable")
    found = ids[order], labels[order], predicted[order]
    if not probabilities:
        return found
    columns = [table[name].to_numpy().astype(np.float32) for name in probability_columns(table.column_names)]
    return *found, np.stack(columns, axis=1)[order]


class TeacherFiles:
    """Predictions of teachers, one file each, by name. A file's own name ends with its checksum: no record speaks of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Sorted, readable or not."""
        return sorted({path.stem.rpartition("-")[0] for path in self.folder.glob("*.parquet")})

    def write(self, name: str, predictions: pd.DataFrame) -> None:
        """In the place of an earlier one, if there is one. Raises StoreError and ValueError as a trial's do."""
        content = to_parquet(predictions)
        path = self.folder / f"{name}-{_checksum(content)}.parquet"
        write_atomically(path, content)
        for other in self._files(name):
            if other != path:
                other.unlink()

    def read(self, name: str) -> Any:
        """pyarrow.Table [rows]; None where there is none. Raises DamagedError."""
        for path in self._files(name):
            content = path.read_bytes()
            if path.stem.rpartition("-")[2] != _checksum(content):
                raise DamagedError(f"{path.name}: the content is not what was written (sha256 differs)")
            return from_parquet(content)
        return None

    def remove(self) -> None:
        """All of them."""
        for path in self.folder.glob("*.parquet"):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self, name: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"{name}-*.parquet") if path.stem.rpartition("-")[0] == name)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
