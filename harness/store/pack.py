"""Reading a pack: trials and events of a store in a few files, which travel lighter than two files a trial.

    results/<study>/pack/
      pack.json              bytes and sha256 of the other files, numbers of trials and events
      records.parquet        one row per trial: what it is (for other programs), and its record, JSON as it was written
      predictions.parquet    one row per example and trial; row group n holds, in the same order, the predictions of the trials
                             in row group n of records.parquet
      events.parquet         one row per line of events.jsonl
      teachers.parquet       one row per example and teacher, where a store keeps what teachers said

`harness.store.packing` writes it. A pack is whole or damaged: a file that is not what was written is named, none is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import RLock
from typing import Any

from harness.errors import StoreError
from harness.store.files import SealedRecord
from harness.store.prediction_table import PREDICTION_COLUMNS

FOLDER = "pack"
BEFORE = ".pack-before"
"""The pack that a newer one is about to replace: it counts where there is no other."""
INDEX, RECORDS, PREDICTIONS, EVENTS = "pack.json", "records.parquet", "predictions.parquet", "events.parquet"
TEACHERS = "teachers.parquet"
VERSION = 1
_PART = 2**20
_GROUPS_KEPT = 16
"""Row groups in memory, some 64 trials each."""


@dataclass(frozen=True)
class _Place:
    group: int
    row: int
    """Within the row group of records."""
    first: int
    """Row within the row group of predictions."""
    rows: int | None
    """Of predictions; None where the trial has none."""


class LatestPack:
    """The pack of a store, opened again where another has taken its place."""

    def __init__(self, store: Path) -> None:
        self._folders = (store / FOLDER, store / BEFORE)
        self._found: tuple[object, Pack] | None = None

    def get(self) -> Pack | None:
        """None where the store has none. Raises StoreError where it is damaged."""
        for folder in self._folders:
            try:
                state = (folder / INDEX).stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            identity = (folder, state.st_ino, state.st_mtime_ns)
            if self._found is None or self._found[0] != identity:
                self._found = (identity, Pack(folder))
            return self._found[1]
        return None


class Pack:
    """Opening it reads the index and the sizes. Any number of threads may read.

    Raises StoreError, on opening or on first use of a file, where a file is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.index: dict[str, Any] = json.loads((path / INDEX).read_bytes())
            version, files = self.index["pack_version"], self.index["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path / INDEX} is damaged: not the index of a pack ({error!r}).{self._advice}") from error
        if version != VERSION:
            raise StoreError(f"{path / INDEX} is of pack version {version!r}; this program reads {VERSION}")
        self._sources = {name: self._opened(name, written["bytes"]) for name, written in files.items()}
        self._lock = RLock()
        self._files: dict[str, Any] = {}
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)

    @property
    def _advice(self) -> str:
        return f" Get {self.path} again from where it was copied (`git checkout`), or remove it to run its trials again."

    def trials(self) -> list[str]:
        """Keys of all trials, in the order in which reading them is fast."""
        return list(self._places)

    def holds(self, key: str) -> bool:
        return key in self._places

    def check(self) -> None:
        """Compare all checksums now. Raises StoreError."""
        with self._lock:
            for name in self._sources:
                self._file(name)

    def record(self, key: str) -> SealedRecord | None:
        """None where the pack does not hold the trial."""
        place = self._places.get(key)
        if place is None:
            return None
        table = self._locked_group(RECORDS, place.group, ("schema_version", "record"))
        version, text = (table[name][place.row].as_py() for name in ("schema_version", "record"))
        return SealedRecord(text.encode(), version, None if place.rows is None else {"rows": place.rows})

    def predictions(self, key: str, columns: tuple[str, ...] | None = None) -> Any:
        """pyarrow.Table [rows]; None where the trial has none. All columns of the trial where `columns` is None."""
        place = self._places[key]
        if place.rows is None:
            return None
        if columns is None:
            names = self._locked_group(RECORDS, place.group, ("probabilities",))["probabilities"][place.row].as_py()
            columns = (*PREDICTION_COLUMNS, *names)
        narrow = set(columns) <= set(PREDICTION_COLUMNS)
        table = self._locked_group(PREDICTIONS, place.group, PREDICTION_COLUMNS if narrow else None)
        return table.slice(place.first, place.rows).select(list(columns))

    @cached_property
    def event_lines(self) -> list[str]:
        with self._lock:
            lines: list[str] = self._file(EVENTS).read()["line"].to_pylist()
        return lines

    @cached_property
    def teachers(self) -> dict[str, Any]:
        """Name -> pyarrow.Table [rows], with the columns of predictions. Few and small: all are read at once."""
        if TEACHERS not in self._sources:
            return {}
        import pyarrow.compute as pc

        with self._lock:
            table = self._file(TEACHERS).read()
        found = {}
        for name in table["teacher"].unique().to_pylist():
            own = table.filter(pc.equal(table["teacher"], name)).drop_columns(["teacher"])
            found[name] = own.select([column for column in own.column_names if own[column].null_count < len(own)])
        return found

    @cached_property
    def _places(self) -> dict[str, _Place]:
        with self._lock:
            file = self._file(RECORDS)
            found = {}
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["key", "prediction_rows"])
                first = 0
                for row, (key, rows) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
                    found[key] = _Place(group, row, first, rows)
                    first += rows or 0
        return found

    def _locked_group(self, name: str, group: int, columns: tuple[str, ...] | None) -> Any:
        with self._lock:  # neither Arrow's readers nor the cache take two threads at once; decoding is short
            return self._group(name, group, columns)

    def _read_group(self, name: str, group: int, columns: tuple[str, ...] | None) -> Any:
        return self._file(name).read_row_group(group, columns=None if columns is None else list(columns)).combine_chunks()

    def _opened(self, name: str, size: int) -> Any:
        """Opened at once: should another pack take this one's place, what is read is still this one."""
        import pyarrow as pa

        path = self.path / name
        try:
            source = pa.OSFile(str(path))
        except FileNotFoundError:
            raise StoreError(f"{path} is missing.{self._advice}") from None
        if source.size() != size:
            raise StoreError(f"{path} is damaged: {source.size()} bytes where {size} were written.{self._advice}")
        return source

    def _file(self, name: str) -> Any:
        """pyarrow.parquet.ParquetFile, its checksum compared when it is first used."""
        if name not in self._files:
            import pyarrow.parquet as pq

            source, found = self._sources[name], hashlib.sha256()
            while part := source.read(_PART):
                found.update(part)
            if found.hexdigest() != self.index["files"][name]["sha256"]:
                raise StoreError(
                    f"{self.path / name} is damaged: the content is not what was written (sha256 differs).{self._advice}"
                )
            source.seek(0)
            self._files[name] = pq.ParquetFile(source)
        return self._files[name]
