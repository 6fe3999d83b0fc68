"""Checksums of a cache's folders: written when a folder is made, compared when its files are first opened in a process.

A flipped bit in cached logits would train students on it without a word, and a file that was cut off would fail for ever.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from harness.digest import digest
from harness.whole_folder import whole_folder

_PREFIX = "checksums-"


class DamagedCacheError(OSError):
    """A file of a cached folder is not what was written."""


@contextmanager
def sealed_folder(folder: Path) -> Iterator[Path]:
    """As `whole_folder`, with checksums."""
    with whole_folder(folder) as unfinished:
        yield unfinished
        seal(unfinished)


def seal(folder: Path) -> Path:
    """Write a file with the checksums of all files in `folder`; returns it. A folder may have several: each says what came
    with it.
    """
    sums = {path.name: checksum(path) for path in sorted(folder.iterdir()) if not path.name.startswith(_PREFIX)}
    file = folder / f"{_PREFIX}{uuid.uuid4().hex}.json"
    file.write_text(json.dumps(sums, indent=1), "utf-8")
    return file


def check(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raises DamagedCacheError where one of the files `names` (None: all) lacks, or is not what was written.

    A file is read once in a process's life. Of a folder that was made before there were checksums, nothing is known.
    """
    sums = _written(folder)
    for name in sums if names is None else names:
        if name in sums and (reason := _damage(folder / name, sums[name])):
            raise DamagedCacheError(
                f"{folder / name}: {reason}. A file of the cache was changed or cut off; the same command makes it again"
            )


def remove_damaged(folder: Path, names: Iterable[str] | None = None) -> str | None:
    """Take a damaged folder away, so that it is made again; returns what was wrong, None where nothing was."""
    try:
        check(folder, names)
    except DamagedCacheError as error:
        take_away(folder)
        return str(error)
    return None


def take_away(folder: Path) -> None:
    """Remove a folder, at once for all who look for it, if it is there."""
    gone = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    try:
        folder.rename(gone)  # whoever has its files open keeps them
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(gone, ignore_errors=True)


def content_digest(folder: Path, names: Iterable[str]) -> str:
    """What these files hold, 24 hex digits."""
    return digest([checksum(folder / name) for name in names])


def checksum(file: Path) -> str:
    """Of a file's content, as this process first found it."""
    status = file.stat()
    return _checksum(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _checksum(file: Path, size: int, modified: int, inode: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _damage(file: Path, written: str) -> str:
    try:
        return "" if checksum(file) == written else "its content is not what was written (checksums differ)"
    except FileNotFoundError:
        return "it is gone"


def _written(folder: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    for file in sorted(folder.glob(f"{_PREFIX}*.json")):
        try:
            sums |= json.loads(file.read_text("utf-8"))
        except (ValueError, TypeError) as error:
            sums[file.name] = f"unreadable: {error}"  # differs from every checksum
    return sums
