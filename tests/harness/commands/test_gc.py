"""What is removed, and above all what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cache import cache_folder, cache_in_use
from harness.report.build import Report
from harness.store.prediction_table import to_frame
from harness.store.store import Store
from harness.training.checkpoint import FILE


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)
    return Store(tmp_path / "results" / "tiny")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checkpoint(store: Store, key: str) -> Path:
    folder = store.path / "running" / key
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(bytes(2**20))
    return folder


def test_leftovers_are_listed_and_removed_and_results_stay(study_file, store, capsys):
    assert main(["run", str(study_file()), "--quiet"]) == 0
    whole = everything(store.path)
    (key,) = store.keys()
    ended, unfinished = checkpoint(store, key), checkpoint(store, "f" * 24)
    (store.path / "trials" / key[:2] / ".unfinished-x").write_bytes(b"half")
    (store.path / "predictions" / "aa").mkdir()
    (store.path / "predictions" / "aa" / ("a" * 24 + ".parquet")).write_bytes(b"of no record")
    (store.path / ".ray" / "trials").mkdir(parents=True)
    (store.path / "students" / ("b" * 24)).mkdir(parents=True)
    (kept,) = store.teachers()
    store.teacher_files.write("of-no-trial", to_frame(store.teacher_table(kept)))
    capsys.readouterr()

    assert main(["gc", str(store.path)]) == 0
    listed = capsys.readouterr().out
    for part in (
        "1.0 MiB",
        "checkpoint of a trial that has ended",
        "predictions without a record",
        "cut off",
        "killed",
        "a student without",
        "what a teacher of no trial said",
    ):
        assert part in listed
    assert "6 things, 1.0 MiB, would be removed by --delete" in listed
    assert ended.exists()

    assert main(["gc", str(store.path), "--delete"]) == 0
    assert "6 things, 1.0 MiB, removed" in capsys.readouterr().out
    assert not ended.exists()
    assert (unfinished / FILE).exists()  # the trial goes on from it
    shutil.rmtree(store.path / "running")
    assert everything(store.path) == whole
    assert main(["gc", str(store.path), "--delete"]) == 0
    assert "0 things" in capsys.readouterr().out


def test_checkpoints_that_are_to_be_kept_are_kept(study_file, store, capsys):
    assert main(["run", str(study_file(keep_checkpoints=True)), "--quiet"]) == 0
    (key,) = store.keys()
    assert (store.path / "running" / key / FILE).is_file()
    assert main(["gc", str(store.path), "--delete"]) == 0
    assert (store.path / "running" / key / FILE).is_file()


def test_without_the_wish_to_keep_them_no_checkpoint_is_left(study_file, store):
    assert main(["run", str(study_file(strategies=["ce_only", "rw_kd"])), "--quiet"]) == 0
    assert not list(store.path.rglob("*.ckpt"))
    assert not (store.path / "running").exists()


def test_the_cache_keeps_what_the_given_folders_refer_to(study_file, store, capsys):
    assert main(["run", str(study_file()), "--quiet"]) == 0
    cache = cache_folder()
    of_one = everything(cache)
    assert main(["run", str(study_file()), "--quiet", "--set", "name=other", "--set", "data.seed=5"]) == 0
    of_both = everything(cache)
    assert {path.split("/")[0] for path in of_both.keys() - of_one.keys()} == {"data", "tokens", "teachers", "tokenizers"}
    (cache / "teachers" / "abc.half").mkdir()
    (cache / "teachers" / "abc.half" / "file").write_bytes(b"x")
    other = str(store.path.parent / "other")

    assert main(["gc", str(store.path), other, "--cache", "--delete"]) == 0
    assert everything(cache) == of_both
    assert main(["gc", str(store.path), "--delete"]) == 0  # not asked for
    assert everything(cache) == of_both
    capsys.readouterr()
    assert main(["gc", str(store.path), "--cache", "--delete"]) == 0
    shown = capsys.readouterr().out
    for reason in ("rows of no study", "tokens of no study's rows", "a teacher of no study"):
        assert reason in shown
    left = {path: content for path, content in everything(cache).items() if not path.startswith("tokenizers")}
    assert left == {path: content for path, content in of_one.items() if not path.startswith("tokenizers")}
    assert main(["run", str(study_file()), "--quiet"]) == 0  # and nothing is missing


def test_a_teacher_of_a_run_that_was_killed_before_its_first_trial_is_kept(study_file, store, capsys):
    """There is no manifest yet that names it, and it took hours."""
    assert main(["run", str(study_file()), "--quiet"]) == 0
    (store.path / "manifest.json").unlink()
    shutil.rmtree(store.path / "trials")
    capsys.readouterr()
    assert main(["gc", str(store.path), "--cache"]) == 0
    assert "a teacher of no study" not in capsys.readouterr().out


def test_the_cache_is_not_garbage_because_the_folder_is_the_wrong_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["gc", "--cache", "--delete"]) == 2
    assert "there is no result folder in results/" in capsys.readouterr().err


def test_nothing_is_touched_while_a_study_runs(study_file, store, capsys):
    assert main(["run", str(study_file()), "--quiet"]) == 0
    with store.writing():
        assert main(["gc", str(store.path), "--delete"]) == 2
    assert "another process is writing" in capsys.readouterr().err
    with cache_in_use(cache_folder()):
        assert main(["gc", str(store.path), "--delete"]) == 0
        assert main(["gc", str(store.path), "--cache", "--delete"]) == 2
        assert "a study is running with the cache" in capsys.readouterr().err
    with cache_in_use(cache_folder(), alone=True):
        assert main(["run", str(study_file()), "--quiet"]) == 2
    assert "is removing things from the cache" in capsys.readouterr().err
