from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from harness.whole_folder import scratch_beside, whole_folder

FILES = 40


def make(folder: Path, me: int, barrier: Any) -> None:
    """One of several processes: all have filled their scratch folder before the first one may finish."""
    with whole_folder(folder) as unfinished:
        for i in range(FILES):
            (unfinished / f"{i}").write_text(str(me))
        barrier.wait(30)


def test_of_many_processes_one_wins_and_all_see_its_whole_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    folder = tmp_path / "cache" / "digest"
    racers = [context.Process(target=make, args=(folder, i, barrier)) for i in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
    assert [racer.exitcode for racer in racers] == [0] * 4
    content = {path.read_text() for path in folder.iterdir()}
    assert len(list(folder.iterdir())) == FILES
    assert len(content) == 1  # one process's files, not a mixture
    assert list(folder.parent.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o755


def fill_until_the_disk_is_full(folder: Path, also: Path | None = None) -> None:
    with whole_folder(folder) as unfinished:
        (unfinished / "half").write_text("x")
        if also is not None:
            also.mkdir()
        raise OSError("no space left on the disk")


def test_what_is_not_finished_never_appears(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"):
        fill_until_the_disk_is_full(tmp_path / "digest")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ones_own_is_not_hidden_by_another_ones_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"):
        fill_until_the_disk_is_full(tmp_path / "digest", also=tmp_path / "digest")


def test_a_file_system_that_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), whole_folder(tmp_path / "digest"):
        pass


def test_files_can_be_moved_from_scratch(tmp_path: Path) -> None:
    folder = tmp_path / "digest"
    folder.mkdir()
    with scratch_beside(folder) as scratch:
        (scratch / "more").write_text("x")
        (scratch / "more").replace(folder / "more")
    assert [path.name for path in folder.iterdir()] == ["more"]
    assert list(tmp_path.iterdir()) == [folder]
