from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft7Validator

from harness.errors import UserError
from harness.report.every_eval_ever import SCHEMA, document, write_documents
from harness.report.leaderboard import Leaderboard
from tests.conftest import PROJECT


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
