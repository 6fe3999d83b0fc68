"""Every verb takes a packed store as it takes an open one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main
from harness.report import Report
from harness.store.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)
    return Store(tmp_path / "results" / "tiny")


def test_a_packed_study_is_run_on_and_every_verb_reads_it(study_file, store, capsys):
    path = study_file(strategies=["ce_only", "fixed_alpha"])
    assert main(["run", str(path), "--quiet"]) == 0
    results, before = str(store.path), store.records()
    capsys.readouterr()
    assert main(["status", results]) == 0
    status = capsys.readouterr().out
    assert main(["compare", "ce_only", "fixed_alpha", "--results", results]) == 0
    compared = capsys.readouterr().out

    assert main(["pack", results]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 trials: ")
    assert said.endswith(f"in {store.path / 'pack'}\n")
    assert not (store.path / "trials").exists()
    for verb, expected in (("status", status), ("compare", compared)):
        arguments = [results] if verb == "status" else ["ce_only", "fixed_alpha", "--results", results]
        assert main([verb, *arguments]) == 0
        assert capsys.readouterr().out == expected
    assert main(["reproduce", results, "sst2/fixed_alpha"]) == 0
    assert "The number came out the same." in capsys.readouterr().out
    assert main(["doctor", results]) == 0
    assert main(["gc", results, "--cache", "--delete"]) == 0
    capsys.readouterr()
    assert store.records() == before

    assert main(["run", str(path)]) == 0
    assert "2 trials from the store" in capsys.readouterr().out
    assert main(["run", str(path), "--set", "strategies+=wsl"]) == 0
    assert "2 trials from the store" in capsys.readouterr().out
    assert [record for record in store.records() if record in before] == before
    assert len(store.open_keys()) == 1
    assert main(["unpack", results]) == 0
    assert len(store.open_keys()) == len(store.records()) == 3
    assert not (store.path / "pack").exists()


def test_a_pack_that_is_cut_off_is_one_clear_line(study_file, store, capsys):
    path = study_file()
    assert main(["run", str(path), "--quiet"]) == 0
    assert main(["pack", str(store.path)]) == 0
    file = store.path / "pack" / "records.parquet"
    file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    for arguments in (["run", str(path)], ["status", str(store.path)], ["reproduce", str(store.path), "sst2/fixed_alpha"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert f"{file} is damaged: 100 bytes where" in error
        assert error.count("\n") == 1
    assert main(["unpack", str(store.path.parent)]) == 2
    assert "is no result folder" in capsys.readouterr().err
