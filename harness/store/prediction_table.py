"""Per-example predictions as Parquet and Arrow tables. No pandas, no Arrow before the first call."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

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
