"""A trial's outcome as plain data, for the way from the process that trained it to the one that stores it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, TypedDict

from harness.records import TrialRecord

if TYPE_CHECKING:
    import pandas as pd

    from harness.trial import TrialOutcome


class Payload(TypedDict):
    record: str
    """JSON."""
    predictions: bytes
    """Parquet."""


def pack(outcome: TrialOutcome) -> Payload:
    buffer = BytesIO()
    outcome.predictions.to_parquet(buffer, index=False)
    return Payload(record=outcome.record.model_dump_json(), predictions=buffer.getvalue())


def unpack(payload: Payload) -> tuple[TrialRecord, pd.DataFrame]:
    import pandas as pd

    record = TrialRecord.model_validate_json(payload["record"])
    return record, pd.read_parquet(BytesIO(payload["predictions"]))
