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


class DamagedError(Exception):
    """A file of the store that is not what was written."""


@dataclass(frozen=True)
class OpenedRecord:
    text: bytes
    """JSON of a TrialRecord of the current schema."""
    predictions: dict[str, Any] | None
    """sha256, bytes and rows of the predictions; None where the trial has none."""


def seal_record(record_json: str, predictions: dict[str, Any] | None) -> bytes:
    """JSON object of schema_version, sha256 (of the record's bytes as they stand in the file), predictions, record."""
    record = record_json.encode()
    head = {"schema_version": SCHEMA_VERSION, "sha256": hashlib.sha256(record).hexdigest(), "predictions": predictions}
    return json.dumps(head).encode()[:-1] + _RECORD + record + _END


def open_record(path: Path) -> OpenedRecord:
    """Read a sealed record, of this schema version or an older one.

    Raises FileNotFoundError, and DamagedError where the file is not what was written or of a schema that is not known.
    """
    content = path.read_bytes()
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
    if version != SCHEMA_VERSION:
        if not isinstance(version, int) or not 1 <= version < SCHEMA_VERSION:
            raise DamagedError(f"it is of schema version {version!r}; this program reads 1 to {SCHEMA_VERSION}")
        text = json.dumps(migrate(json.loads(text), version)).encode()
    return OpenedRecord(text, predictions)


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
