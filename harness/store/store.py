"""The result store of a study: the only truth about what was run.

    results/<study>/
      manifest.json                    what was run with what: study as resolved, digests, versions, hardware
      events.jsonl                     what happened when, one JSON object a line
      trials/<kk>/<key>.json           one record per finished trial; kk are the first two digits of its key
      predictions/<kk>/<key>.parquet   its per-example predictions (zstd; probabilities as float16)
      teachers/<name>-<sum>.parquet    the same of each teacher, once for all trials that it taught
      pack/                            trials and events of a finished study in a few files (`harness.store.pack`); trials that
                                       are run later lie beside it, and one of the same key counts in its stead
      students/<key>/                  its student, where the study keeps students

One process writes, any number may read meanwhile: a file appears under its name only when it is complete, and a trial's record
is written after its predictions. A record says the sha256 of its own text and of its predictions, so that damage is found and
named; a damaged trial counts as not run. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import StoreError
from harness.records import SCHEMA_VERSION, TrialRecord
from harness.store.events import append_event, event_lines, parse_events
from harness.store.files import (
    Damage,
    DamagedError,
    SealedRecord,
    open_record,
    seal_predictions,
    seal_record,
    write_atomically,
    write_error,
)
from harness.store.lock import is_locked, locked
from harness.store.pack import LatestPack, Pack
from harness.store.prediction_table import (
    PREDICTION_COLUMNS,
    TeacherFiles,
    from_parquet,
    split_arrays,
    to_frame,
    to_parquet,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_READERS = 4
_CHUNK = 64


class Store:
    """A folder of results. Nothing is created before the first write."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.damaged: dict[str, Damage] = {}
        """What `get`, `records` and `predictions` found so far, by trial key."""
        self._pack = LatestPack(self.path)
        self.teacher_files = TeacherFiles(self.path / "teachers")

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for writing. Raises StoreError where another process holds it."""
        _make_folder(self.path)
        with locked(self.path):
            yield

    def is_held(self) -> bool:
        """Whether some process holds the store for writing."""
        return is_locked(self.path)

    def write(self, record: TrialRecord, predictions: pd.DataFrame | None) -> None:
        """Store a finished trial, replacing an earlier record of the same key.

        `predictions` has the columns split, id, label, predicted and p0 .. p{classes - 1}; None where the trial failed.
        Raises StoreError where the files cannot be written (no space, no permission); nothing stored before is touched then.
        Raises ValueError for a successful trial without a prediction for every row that it was scored on.
        """
        _check_whole(record, predictions)
        sealed: dict[str, Any] | None = None
        if predictions is not None:
            content = to_parquet(predictions)
            write_atomically(self.predictions_path(record.key), content)
            sealed = seal_predictions(content, len(predictions))
        write_atomically(self.record_path(record.key), seal_record(record.model_dump_json().encode(), sealed))
        if predictions is None:
            self.predictions_path(record.key).unlink(missing_ok=True)
        self.damaged.pop(record.key, None)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest. Raises StoreError as `write` does."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **manifest}, indent=2, ensure_ascii=False, default=str)
        write_atomically(self.path / "manifest.json", (text + "\n").encode())

    def event(self, kind: str, **fields: Any) -> None:
        """Append to events.jsonl: {"time": ..., "kind": kind, **fields}."""
        path = self.path / "events.jsonl"
        _make_folder(self.path)
        try:
            append_event(path, kind, fields)
        except OSError as error:
            raise write_error(path, error) from error

    # Reading

    def keys(self) -> list[str]:
        """Keys of all stored records, sorted, readable or not. Raises StoreError, as all reading does, for a damaged pack."""
        pack = self.pack()
        return sorted({*self.open_keys(), *(pack.trials() if pack is not None else ())})

    def open_keys(self) -> set[str]:
        """Keys of the trials that have files of their own."""
        return {path.stem for path in self.path.glob("trials/??/*.json")}

    def get(self, key: str) -> TrialRecord | None:
        """The record of a trial; None where there is none, or where it is damaged (then `damaged` says why)."""
        path = self.record_path(key)
        try:
            sealed = self.sealed(key)
            if sealed is None:
                return None
            if sealed.predictions is not None and "bytes" in sealed.predictions:
                self._check_size(key, sealed.predictions)
            record = TrialRecord.model_validate_json(sealed.current())
            if record.key != key:
                raise DamagedError(f"the file is named after trial {key} but holds trial {record.key}")
        except DamagedError as error:
            self._note(key, path, str(error))
            return None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            self._note(key, path, f"not a trial record: {where}: {first['msg']}")
            return None
        return record

    def sealed(self, key: str) -> SealedRecord | None:
        """A trial's record as it was written: of its own file, else of the pack; None where there is none.

        Raises DamagedError where its own file is not what was written.
        """
        try:
            return open_record(self.record_path(key).read_bytes())
        except FileNotFoundError:
            pack = self.pack()
            return None if pack is None else pack.record(key)

    def records(self) -> list[TrialRecord]:
        """All readable records, by task, label, repeat and index."""
        pack = self.pack()
        keys = list(dict.fromkeys([*(pack.trials() if pack is not None else ()), *sorted(self.open_keys())]))
        chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]  # handing over single keys costs more
        with ThreadPoolExecutor(_READERS) as pool:
            parts = pool.map(lambda chunk: [self.get(key) for key in chunk], chunks)
            found = [record for part in parts for record in part if record is not None]
        return sorted(found, key=lambda r: (r.spec.task.name, r.spec.label, r.spec.repeat, r.spec.purpose, r.spec.index, r.key))

    def predictions(self, key: str) -> pd.DataFrame:
        """Per-example predictions of a trial: split, id, label, predicted, p0 .. (float32).

        Raises StoreError where there are none, or where the file is not what the record says.
        """
        return to_frame(self.prediction_table(key))

    def predicted_classes(self, key: str, split: str, probabilities: bool = False) -> tuple[NDArray[Any], ...]:
        """Ids, labels and predicted classes of one split, each int64 [rows], by id: what a report reads of many trials.

        With `probabilities`, float32 [rows, classes] of them too. Raises as `predictions` does.
        """
        table = self.prediction_table(key, None if probabilities else PREDICTION_COLUMNS)
        return split_arrays(table, split, probabilities)

    def prediction_table(self, key: str, columns: tuple[str, ...] | None = None) -> Any:
        """pyarrow.Table [rows] of a trial's predictions as stored; all columns where `columns` is None.

        Raises as `predictions` does.
        """
        path, own = self.predictions_path(key), self.record_path(key)
        try:
            if not own.exists() and (pack := self.pack()) is not None and pack.holds(key):
                packed = pack.predictions(key, columns)
                if packed is None:
                    raise DamagedError("the record says that the trial has no predictions")
                return packed
            sealed = open_record(own.read_bytes()).predictions
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
        return from_parquet(content, columns)

    def teachers(self) -> list[str]:
        """Names of the teachers whose predictions are kept (`harness.records.teacher_name`), sorted."""
        pack = self.pack()
        return sorted({*self.teacher_files.names(), *(pack.teachers if pack is not None else ())})

    def teacher_table(self, name: str) -> Any:
        """pyarrow.Table [rows] of what a teacher says of the report rows, with the columns of a trial's predictions; None where
        it is not kept. Raises StoreError where the file is not what was written.
        """
        try:
            own = self.teacher_files.read(name)
        except DamagedError as error:
            self._note(name, self.teacher_files.folder, str(error))
            raise StoreError(f"the predictions of teacher {name} in {self.path} cannot be used: {error}") from error
        if own is not None or (pack := self.pack()) is None:
            return own
        return pack.teachers.get(name)

    def pack(self) -> Pack | None:
        """What was packed, as it is now; None where nothing was. Raises StoreError where it is damaged."""
        return self._pack.get()

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

    def event_lines(self) -> list[str]:
        """Lines of the event log, the packed ones first; the last may be cut off."""
        lines = event_lines(self.path / "events.jsonl")
        pack = self.pack()
        if pack is None:
            return lines
        packed = set(pack.event_lines)  # times tell events apart: a line is in both where packing was cut off
        return [*pack.event_lines, *(line for line in lines if line not in packed)]

    def events(self, last_run: bool = False) -> list[dict[str, Any]]:
        """The event log, or what it holds since the last run started."""
        lines = self.event_lines()
        if last_run:
            starts = (number for number in range(len(lines) - 1, -1, -1) if ', "kind": "started"' in lines[number])
            lines = lines[next(starts, 0) :]
        return parse_events(lines)

    def frame(self, records: Iterable[TrialRecord] | None = None) -> pd.DataFrame:
        """One row per trial, flat. See `harness.store.frame`."""
        from harness.store.frame import to_frame

        return to_frame(self.records() if records is None else records)

    def verify(self) -> list[Damage]:
        """Read everything, predictions with their checksums too; what is damaged. Raises StoreError where it is the pack."""
        if (pack := self.pack()) is not None:
            pack.check()
        for record in self.records():
            if record.status == "ok" and self.predictions_path(record.key).exists():
                try:
                    self.predictions(record.key)
                except StoreError:
                    continue  # noted in `damaged`
        for name in self.teachers():
            with suppress(StoreError):
                self.teacher_table(name)
        return sorted(self.damaged.values(), key=lambda damage: damage.path)

    def _check_size(self, key: str, sealed: dict[str, Any]) -> None:
        path = self.predictions_path(key)
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

    def record_path(self, key: str) -> Path:
        return self.path / "trials" / key[:2] / f"{key}.json"

    def predictions_path(self, key: str) -> Path:
        return self.path / "predictions" / key[:2] / f"{key}.parquet"


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
