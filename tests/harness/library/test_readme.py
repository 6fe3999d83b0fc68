"""The library's page, run from top to bottom as a reader would."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from harness.__main__ import main
from harness.cache import cache_folder
from harness.models.build import build_model
from harness.models.save import save_classifier
from harness.models.tokenizing import load_tokenizer
from harness.report import Report
from harness.study.schema import ModelSpec
from tests.conftest import PROJECT
from tests.harness.tiny import STUDENT, TEACHER, VARIED

PAGE = PROJECT / "harness" / "library" / "README.md"
LABELS = ["bad", "good"]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the reader has: two models and two files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)
    texts = [f"{'good' if k % 2 else 'bad'} film number {k % 7}" for k in range(120)]
    for name, some in (("train.csv", texts), ("validation.csv", texts[:20])):
        with Path(name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([text, text.split()[0]] for text in some)
    for seed, (name, config) in enumerate((("my-teacher", TEACHER), ("my-student", STUDENT))):
        spec = ModelSpec(config={**config, **VARIED})
        tokenizer = load_tokenizer(spec, texts, tmp_path / "cache")
        Path(name).mkdir()
        save_classifier(build_model(spec, 2, seed, len(tokenizer)), tokenizer, LABELS, 64, Path(name))
    return tmp_path


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # a Trainer's default, without an accelerator
def test_the_page_does_what_it_says(at_home: Path) -> None:
    names: dict[str, object] = {}
    kinds = []
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        kinds.append(kind)
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), names)
        elif kind == "yaml":
            Path("study.yaml").write_text(block, "utf-8")
        else:
            for line in block.strip().splitlines():
                verb = line.partition("    # ")[0].removeprefix("python -m harness ").split()
                assert main(verb + (["--engine", "inline", "--quiet"] if verb[0] == "run" else [])) == 0, line
    assert kinds == ["python", "python", "python", "yaml", "sh", "python"]
    weights = names["trainer"].strategy_loss.last.weights  # type: ignore[attr-defined]
    assert set(weights) == {"ce", "kd"}
    assert torch.isfinite(weights["kd"]).all()
    assert (at_home / "student-of-mine" / "model.safetensors").is_file()
    assert "mine/rw_kd/" in (at_home / "mine-student" / "README.md").read_text("utf-8")
    said = pipeline("text-classification", model="mine-student")("a good film", truncation=True)
    assert said[0]["label"] in LABELS
    made = [json.loads(file.read_text("utf-8"))["job"]["teacher"] for file in cache_folder().glob("teachers/*/teacher.json")]
    assert [teacher["fine_tuned"] for teacher in made if teacher["name"] == "theirs"] == [{"mine": "my-teacher"}]
