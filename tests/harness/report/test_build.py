from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from jsonschema import Draft7Validator

from harness.__main__ import main
from harness.errors import StoreError, UserError
from harness.report import Report, build_report
from harness.report.every_eval_ever import SCHEMA, document, write_documents
from harness.report.leaderboard import Leaderboard
from harness.report.page import DRAWN_HERE
from harness.report.terminal import text
from tests.conftest import PROJECT
from tests.harness.report.stores import Planted, build_store


def test_the_same_store_gives_the_same_bytes_everywhere(report: Report, tmp_path: Path) -> None:
    keep = shutil.ignore_patterns("plots", "index.html", "leaderboard.*")
    again = build_report(shutil.copytree(report.folder, tmp_path / report.folder.name, ignore=keep))
    names = [path.relative_to(report.folder) for path in report.files]
    assert [path.relative_to(again.folder) for path in again.files] == names
    for name in names:
        assert (again.folder / name).read_bytes() == (report.folder / name).read_bytes(), name
    assert text(again.board).replace(str(again.folder), "") == text(report.board).replace(str(report.folder), "")


def test_nothing_dates_the_files(report: Report) -> None:
    for path in report.files:
        if path.suffix == ".svg":
            assert b"<dc:date>" not in path.read_bytes()


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished trial"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_report_is_cheap() -> None:
    code = "import sys, harness.report; print(any(m in sys.modules for m in ('matplotlib', 'pandas', 'scipy', 'torch')))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_the_page_is_whole_and_harmless(report: Report) -> None:
    page = (report.folder / "index.html").read_text()
    assert "<script>alert(1)" not in page  # the planted error message
    assert "&lt;script&gt;alert(1)" in page
    # nothing is loaded: no address but data: in any attribute
    beside = re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]*)", page)
    assert beside == ["leaderboard.csv", "scores.csv", "manifest.json"]
    assert all((report.folder / name).is_file() for name in beside)
    assert "@import" not in page
    assert 'http-equiv="Content-Security-Policy"' in page
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page
    for label in ("rw_kd", "shuffled(rw_kd)"):
        assert label in page
    shown = [plot.name for plot in report.plots if not plot.omitted and plot.name not in DRAWN_HERE]
    assert page.count("<img ") == len(shown)
    kinds = [path.suffix for path in report.files if path.stem in shown]
    assert page.count("data:image/svg+xml;base64") == kinds.count(".svg")
    assert page.count("data:image/png") == kinds.count(".png")


def test_what_is_asked_for_is_printed_and_written_beside_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(build_store(tmp_path / "store", Planted(("sst2",), ("fixed_alpha", "wsl"), repeats=1, trials=1, rows=30)).path)
    documents = tmp_path / "documents"
    assert main(["report", store, "--metrics", "nll,ece", "--every-eval-ever", str(documents)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["strategy", "nll"]
    assert sorted(path.parent.name for path in documents.rglob("*.json")) == ["fixed_alpha", "wsl"]
    for wrong, said in ((["--metrics", "nl"], "Did you mean 'nll'"), (["--every-eval-ever", str(documents)], "not empty")):
        assert main(["report", store, *wrong]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """As the package `every-eval-ever` 0.3.0 (MIT) has it, which itself needs Python 3.12."""
    return json.loads((PROJECT / "tests" / "harness" / "fixtures" / "every_eval_ever_0.3.0.json").read_text("utf-8"))


def test_every_strategy_has_a_valid_document(board: Leaderboard, schema: dict[str, Any], tmp_path: Path) -> None:
    assert schema["version"] == SCHEMA
    Draft7Validator.check_schema(schema)
    validator = Draft7Validator(schema)
    written = write_documents(board, tmp_path / "made")
    assert len(written) == len(board.selection.labels)
    for i, path in enumerate(written):
        made = json.loads(path.read_text("utf-8"))
        assert [error.message for error in validator.iter_errors(made)] == []
        assert made["model_info"]["id"] == f"planted/{board.selection.labels[i]}"
        assert path.parent == tmp_path / "made" / "data" / "planted" / "planted" / board.selection.labels[i]
        assert UUID(path.stem).version == 4
        results = {one["evaluation_name"]: one["score_details"] for one in made["evaluation_results"]}
        assert list(results) == list(board.selection.tasks)
        np.testing.assert_array_equal([one["score"] for one in results.values()], board.task_mean[i])
        for one in results.values():
            interval = one["uncertainty"]["confidence_interval"]
            assert interval["lower"] <= one["score"] <= interval["upper"]
    assert list(validator.iter_errors({**made, "evaluation_results": [{}]}))


def test_what_has_no_score_has_no_result(board_with_holes: Leaderboard, schema: dict[str, Any]) -> None:
    for i in range(len(board_with_holes.selection.labels)):
        made = document(board_with_holes, i)
        assert made is not None
        Draft7Validator(schema).validate(made)
        json.dumps(made, allow_nan=False)


def test_a_folder_with_files_is_left_alone(board: Leaderboard, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        write_documents(board, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
