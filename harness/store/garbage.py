"""What lies on the disk and nothing refers to: left by finished or killed runs, and caches of studies that are gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.digest import digest
from harness.store.pack import BEFORE, FOLDER
from harness.store.store import Store


@dataclass(frozen=True)
class Garbage:
    path: Path
    reason: str

    @property
    def bytes(self) -> int:
        return size(self.path)

    def delete(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


def garbage_of_store(store: Store) -> Iterator[Garbage]:
    """Nothing of it is a result. Only right while no study is running in the store."""
    keys, own = set(store.keys()), store.open_keys()
    keeps = store.manifest().get("study", {}).get("keep_checkpoints", False)
    for folder in _children(store.path / "running"):
        if folder.name in keys and not keeps:
            yield Garbage(folder, "checkpoint of a trial that has ended")
    for folder in _children(store.path / "students"):
        if folder.name not in keys:
            yield Garbage(folder, _unfinished(folder) or "a student without a record")
    for file in sorted(store.path.glob("predictions/??/*.parquet")):
        if file.stem not in own:
            yield Garbage(file, "predictions without a record")
    yield from _unnamed_teachers(store)
    for path in sorted(store.path.rglob(".unfinished-*")):
        if not path.parent.name.startswith(".unfinished-"):  # it goes with its folder
            yield Garbage(path, "a write that was cut off")
    if (store.path / BEFORE).exists() and (store.path / FOLDER).exists():
        yield Garbage(store.path / BEFORE, "a pack that a newer one replaced")
    if (store.path / ".ray").exists():
        yield Garbage(store.path / ".ray", "Ray's state of a run that was killed")


def _unnamed_teachers(store: Store) -> Iterator[Garbage]:
    """Of a teacher that was trained again elsewhere before a trial had learned from it. A run that needs it writes it again."""
    files = sorted(store.teacher_files.folder.glob("*.parquet"))
    named = {name for record in (store.records() if files else ()) for name in record.teacher_names}
    for file in files if not store.damaged else ():  # what cannot be read may name it
        if file.stem.rpartition("-")[0] not in named:
            yield Garbage(file, "what a teacher of no trial said")


def garbage_of_cache(cache: Path, stores: Iterable[Store]) -> Iterator[Garbage]:
    """Rows, tokens and teachers that no manifest or record of `stores` names. Only right while no study uses the cache."""
    rows, teachers = _referred(stores)
    for folder in _children(cache / "data"):
        if folder.name not in rows:
            yield Garbage(folder, _unfinished(folder) or "rows of no study")
    for folder in _children(cache / "tokens"):
        named = folder / "rows.txt"
        if not named.is_file() or named.read_text("utf-8") not in rows:
            yield Garbage(folder, _unfinished(folder) or "tokens of no study's rows")
    for folder in _children(cache / "teachers"):
        if folder.name not in teachers:
            yield Garbage(folder, _unfinished(folder) or "a teacher of no study")


def size(path: Path) -> int:
    """Bytes, of a folder those of all files in it."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def _referred(stores: Iterable[Store]) -> tuple[set[str], set[str]]:
    """Digests of rows and of teachers."""
    rows, teachers = set(), set()
    for store in stores:
        manifest = store.manifest()
        rows |= {digest(roles) for roles in manifest.get("digests", {}).values()}
        teachers |= {name for named in manifest.get("teachers", {}).values() for name in named.values()}
        # of a run that was killed before it wrote its manifest, and so before it trained on them
        teachers |= {event["digest"] for event in store.events() if event["kind"].startswith("teacher_")}
        for record in store.records():
            rows.add(record.spec.data_digest)
            teachers |= set(record.spec.teacher_digests)
    return rows, teachers


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _unfinished(folder: Path) -> str:
    return "left unfinished by a process that was killed" if "." in folder.name else ""
