"""Files of the store: written whole or not at all, and sealed with a checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records import SCHEMA_VERSION
from harness.store.migrate import migrate

_RECORD = b',\n"record":'
_END = b"\n}\n"


@dataclass(frozen=True)
class Damage:
    """A trial whose files cannot be trusted."""

    key: str
    path: str
    """Relative to the store."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DamagedError(Exception):
    """A file of the store that is not what was written."""


@dataclass(frozen=True)
class SealedRecord:
    """A trial's record as it was written."""

    text: bytes
    """JSON of a TrialRecord, in the schema of `version`."""
    version: int
    predictions: dict[str, Any] | None
    """rows, and of a file of its own sha256 and bytes; None where the trial has none."""

    def current(self) -> bytes:
        """JSON of a TrialRecord of the current schema. Raises DamagedError where the schema is not known."""
        if self.version == SCHEMA_VERSION:
            return self.text
        if not isinstance(self.version, int) or not 1 <= self.version < SCHEMA_VERSION:
            raise DamagedError(f"it is of schema version {self.version!r}; this program reads 1 to {SCHEMA_VERSION}")
        return json.dumps(migrate(json.loads(self.text), self.version)).encode()


def seal_record(record: bytes, predictions: dict[str, Any] | None, version: int = SCHEMA_VERSION) -> bytes:
    """JSON object of schema_version, sha256 (of the record's bytes as they stand in the file), predictions, record."""
    head = {"schema_version": version, "sha256": hashlib.sha256(record).hexdigest(), "predictions": predictions}
    return json.dumps(head).encode()[:-1] + _RECORD + record + _END


def seal_predictions(content: bytes, rows: int) -> dict[str, Any]:
    """What a record says of its file of predictions."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "rows": rows}


def open_record(content: bytes) -> SealedRecord:
    """Raises DamagedError where the file's content is not what was written."""
    head_text, found, rest = content.partition(_RECORD)
    if not found or not rest.endswith(_END):
        raise DamagedError(f"the file is cut off or not a trial record ({len(content)} bytes)")
    text = rest[: -len(_END)]
    try:
        head = json.loads(head_text + b"}")
        version, checksum, predictions = head["schema_version"], head["sha256"], head["predictions"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"the head of the file is not readable: {error!r}") from error
    if hashlib.sha256(text).hexdigest() != checksum:
        raise DamagedError("the content is not what was written (sha256 differs)")
    return SealedRecord(text, version, predictions)


def write_atomically(path: Path, content: bytes) -> None:
    """Write and sync a temporary file beside `path`, then rename. Raises StoreError; `path` is as before then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # made with the permissions that it keeps: some file systems (SMB, exFAT, mounted object stores) refuse to change them
        unfinished = path.with_name(f".unfinished-{uuid.uuid4().hex}")
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def _sync_folder(path: Path) -> None:
    """The rename itself has to survive a power cut; not every file system knows of such a thing."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(folder)


def write_error(path: Path, error: OSError) -> StoreError:
    """What the user can do about a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"no space left on the disk (or in the quota) for {path}. Trials that were stored before are kept: free some space "
            f"and give the same command again, it goes on from there."
        )
    return StoreError(f"{path} cannot be written: {error.strerror or error}. Trials that were stored before are kept.")
