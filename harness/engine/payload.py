"""A trial's outcome as plain data, for the way from the process that trained it to the one that stores it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, TypedDict

from harness.records import TrialRecord

if TYPE_CHECKING:
    import pandas as pd

    from harness.training.trial import TrialOutcome


class Payload(TypedDict):
    record: str
    """JSON."""
    predictions: bytes | None
    """Parquet; None where the trial was stopped early."""


def pack(outcome: TrialOutcome) -> Payload:
    if outcome.predictions is None:
        return Payload(record=outcome.record.model_dump_json(), predictions=None)
    buffer = BytesIO()
    outcome.predictions.to_parquet(buffer, index=False)
    return Payload(record=outcome.record.model_dump_json(), predictions=buffer.getvalue())


def unpack(payload: Payload) -> tuple[TrialRecord, pd.DataFrame | None]:
    import pandas as pd

    record = TrialRecord.model_validate_json(payload["record"])
    if payload["predictions"] is None:
        return record, None
    return record, pd.read_parquet(BytesIO(payload["predictions"]))
