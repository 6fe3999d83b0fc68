"""The result store of a study: the only truth about what was run.

    results/<study>/
      manifest.json                    what was run with what: study as resolved, digests, versions, hardware
      events.jsonl                     what happened when, one JSON object a line
      trials/<kk>/<key>.json           one record per finished trial; kk are the first two digits of its key
      predictions/<kk>/<key>.parquet   its per-example predictions (zstd; probabilities as float16)
      students/<key>/                  its student, where the study keeps students

One process writes, any number may read meanwhile: a file appears under its name only when it is complete, and a trial's record
is written after its predictions. A record says the sha256 of its own text and of its predictions, so that damage is found and
named; a damaged trial counts as not run. Nothing is ever unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import StoreError
from harness.records import SCHEMA_VERSION, TrialRecord
from harness.store.files import DamagedError, open_record, seal_record, write_atomically, write_error

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_READERS = 4
_CHUNK = 64
_LOOKED_AT_SECONDS = 0.2
"""`is_held` of another process takes the lock for a moment."""
PREDICTION_COLUMNS = ("split", "id", "label", "predicted")


@dataclass(frozen=True)
class Damage:
    """A trial whose files cannot be trusted."""

    key: str
    path: str
    """Relative to the store."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Store:
    """A folder of results. Nothing is created before the first write."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.damaged: dict[str, Damage] = {}
        """What `get`, `records` and `predictions` found so far, by trial key."""

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for writing. Raises StoreError where another process holds it."""
        _make_folder(self.path)
        with (self.path / ".lock").open("a") as lock:
            deadline = time.monotonic() + _LOOKED_AT_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StoreError(
                            f"another process is writing to {self.path}. Wait for it to end, or give the study another `name` "
                            f"or `results` folder: one store has one writer at a time."
                        ) from error
                    time.sleep(0.01)
            yield

    def is_held(self) -> bool:
        """Whether some process holds the store for writing."""
        try:
            with (self.path / ".lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def write(self, record: TrialRecord, predictions: pd.DataFrame | None) -> None:
        """Store a finished trial, replacing an earlier record of the same key.

        `predictions` has the columns split, id, label, predicted and p0 .. p{classes - 1}; None where the trial failed.
        Raises StoreError where the files cannot be written (no space, no permission); nothing stored before is touched then.
        Raises ValueError for a successful trial without a prediction for every row that it was scored on.
        """
        _check_whole(record, predictions)
        sealed: dict[str, Any] | None = None
        if predictions is not None:
            content = _to_parquet(predictions)
            write_atomically(self._predictions_path(record.key), content)
            sealed = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "rows": len(predictions),
            }
        write_atomically(self._record_path(record.key), seal_record(record.model_dump_json(), sealed))
        if predictions is None:
            self._predictions_path(record.key).unlink(missing_ok=True)
        self.damaged.pop(record.key, None)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest. Raises StoreError as `write` does."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **manifest}, indent=2, ensure_ascii=False, default=str)
        write_atomically(self.path / "manifest.json", (text + "\n").encode())

    def event(self, kind: str, **fields: Any) -> None:
        """Append to events.jsonl: {"time": ..., "kind": kind, **fields}."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(), "kind": kind, **fields}, default=str) + "\n"
        _make_folder(self.path)
        path = self.path / "events.jsonl"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())  # one write: lines of two processes do not mix
            finally:
                os.close(descriptor)
        except OSError as error:
            raise write_error(path, error) from error

    # Reading

    def keys(self) -> list[str]:
        """Keys of all stored records, sorted, readable or not."""
        return sorted(path.stem for path in self.path.glob("trials/??/*.json"))

    def get(self, key: str) -> TrialRecord | None:
        """The record of a trial; None where there is none, or where it is damaged (then `damaged` says why)."""
        path = self._record_path(key)
        try:
            opened = open_record(path)
            record = TrialRecord.model_validate_json(opened.text)
            if record.key != key:
                raise DamagedError(f"the file is named after trial {key} but holds trial {record.key}")
            if opened.predictions is not None:
                self._check_size(key, opened.predictions)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            self._note(key, path, str(error))
            return None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            self._note(key, path, f"not a trial record: {where}: {first['msg']}")
            return None
        return record

    def records(self) -> list[TrialRecord]:
        """All readable records, by task, label, repeat and index."""
        keys = self.keys()
        chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]  # handing over single keys costs more
        with ThreadPoolExecutor(_READERS) as pool:
            parts = pool.map(lambda chunk: [self.get(key) for key in chunk], chunks)
            found = [record for part in parts for record in part if record is not None]
        return sorted(found, key=lambda r: (r.spec.task.name, r.spec.label, r.spec.repeat, r.spec.purpose, r.spec.index, r.key))

    def predictions(self, key: str) -> pd.DataFrame:
        """Per-example predictions of a trial: split, id, label, predicted, p0 .. (float32).

        Raises StoreError where there are none, or where the file is not what the record says.
        """
        import pandas as pd

        frame = pd.read_parquet(BytesIO(self._sealed_predictions(key)))
        halves = [column for column in frame.columns if column not in PREDICTION_COLUMNS]
        return frame.astype({"split": str} | dict.fromkeys(halves, "float32"))

    def predicted_classes(self, key: str, split: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids, labels and predicted classes of one split, each [rows], by id: what a report reads of many trials.

        Raises as `predictions` does.
        """
        import numpy as np
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        table = pq.ParquetFile(BytesIO(self._sealed_predictions(key))).read(columns=list(PREDICTION_COLUMNS))
        table = table.filter(pc.equal(table["split"], split))
        ids, labels, predicted = (table[name].to_numpy().astype(np.int64) for name in PREDICTION_COLUMNS[1:])
        order = np.argsort(ids, kind="stable")
        return ids[order], labels[order], predicted[order]

    def _sealed_predictions(self, key: str) -> bytes:
        path = self._predictions_path(key)
        try:
            sealed = open_record(self._record_path(key)).predictions
            if sealed is None:
                raise DamagedError("the record says that the trial has no predictions")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sealed["sha256"]:
                raise DamagedError("the content is not what was written (sha256 differs)")
        except FileNotFoundError as error:
            raise StoreError(f"no predictions of trial {key} in {self.path}: {error.filename} is missing") from error
        except DamagedError as error:
            self._note(key, path, str(error))
            raise StoreError(f"the predictions of trial {key} in {self.path} cannot be used: {error}") from error
        return content

    def manifest(self) -> dict[str, Any]:
        """The manifest; {} where none was written. Raises StoreError where it is not readable."""
        path = self.path / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(f"the manifest {path} cannot be read: {error}") from error
        if not isinstance(manifest, dict):
            raise StoreError(f"the manifest {path} cannot be read: it holds {type(manifest).__name__}, not an object")
        return manifest

    def events(self, last_run: bool = False) -> list[dict[str, Any]]:
        """All complete lines of events.jsonl, or those since the last run started."""
        path = self.path / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        if last_run and (at := text.rfind(', "kind": "started"')) >= 0:
            text = text[text.rfind("\n", 0, at) + 1 :]
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def frame(self, records: Iterable[TrialRecord] | None = None) -> pd.DataFrame:
        """One row per trial, flat. See `harness.store.frame`."""
        from harness.store.frame import to_frame

        return to_frame(self.records() if records is None else records)

    def verify(self) -> list[Damage]:
        """Read everything, predictions with their checksums too; what is damaged."""
        for record in self.records():
            if record.status == "ok" and self._predictions_path(record.key).exists():
                try:
                    self.predictions(record.key)
                except StoreError:
                    continue  # noted in `damaged`
        return sorted(self.damaged.values(), key=lambda damage: damage.path)

    def _check_size(self, key: str, sealed: dict[str, Any]) -> None:
        path = self._predictions_path(key)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DamagedError(f"its predictions are missing ({path.relative_to(self.path)})") from None
        if size != sealed["bytes"]:
            raise DamagedError(f"its predictions have {size} bytes where {sealed['bytes']} were written")

    def _note(self, key: str, path: Path, reason: str) -> None:
        self.damaged[key] = Damage(key, str(path.relative_to(self.path)), reason)

    def student_folder(self, key: str) -> Path:
        """Where the student of a trial is kept, if a study says so (`keep_students`)."""
        return self.path / "students" / key

    def _record_path(self, key: str) -> Path:
        return self.path / "trials" / key[:2] / f"{key}.json"

    def _predictions_path(self, key: str) -> Path:
        return self.path / "predictions" / key[:2] / f"{key}.parquet"


def _to_parquet(predictions: pd.DataFrame) -> bytes:
    missing = [name for name in PREDICTION_COLUMNS if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions lack the columns {missing}; they have {list(predictions.columns)}")
    probabilities = [name for name in predictions.columns if name not in PREDICTION_COLUMNS]
    types = {"split": "category", "id": "int64", "label": "int16", "predicted": "int16"}
    buffer = BytesIO()
    predictions.astype(types | dict.fromkeys(probabilities, "float16")).to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _check_whole(record: TrialRecord, predictions: pd.DataFrame | None) -> None:
    given = {} if predictions is None else predictions["split"].value_counts().to_dict()
    lacking = [split for split, score in record.report.items() if given.get(split) != score.rows]
    if lacking:
        raise ValueError(f"trial {record.key} was scored on {', '.join(lacking)} and does not come with each row's prediction")
