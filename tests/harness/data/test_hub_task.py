"""Any data set of the hub as a task: what is found in it, what is refused, and its way over HTTP."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from datasets import ClassLabel, Features, List, Value

from harness.data.columns import rows_from_frame
from harness.data.hub_task import with_label_names
from harness.data.source import load_task
from harness.errors import DataError, StudyError
from harness.plan.plan import Plan, make_plan
from harness.study.data import DataSpec
from harness.study.schema import Study
from harness.study.tasks import GLUE, TaskSpec
from tests.conftest import PROJECT
from tests.harness.hub_server import Hub
from tests.harness.tiny import tiny_study

ROWS = 12
MOODS = ["sad", "glad", "angry"]
COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "id": (Value("string"), [f"a{k}" for k in range(ROWS)]),
    "text": (Value("string"), [f"text {k}" for k in range(ROWS)]),
    "title": (Value("string"), [f"title {k}" for k in range(ROWS)]),
    "label": (ClassLabel(names=MOODS), [k % 3 for k in range(ROWS)]),
    "kind": (Value("string"), ["ham", "spam"] * (ROWS // 2)),
    "stars": (Value("int64"), [1, 5] * (ROWS // 2)),
    "whole": (Value("float32"), [1.0, 5.0] * (ROWS // 2)),
    "score": (Value("float32"), [k * 0.3 for k in range(ROWS)]),
    "tags": (List(ClassLabel(names=MOODS)), [[0, 2]] * ROWS),
    "gap": (ClassLabel(names=MOODS), [-1, *(k % 3 for k in range(ROWS - 1))]),
}
NAMED = {"name": "mood", "text": ["text"], "label": "label", "labels": MOODS}


def save(folder: Path, *columns: str, splits: tuple[str, ...] = ("train", "test"), configs: tuple[str, ...] = ()) -> str:
    """A repository with these columns; returns its name within `folder`."""
    features = Features({name: COLUMNS[name][0] for name in columns})
    rows = datasets.Dataset.from_dict({name: COLUMNS[name][1] for name in columns}, features=features)
    where = folder / "acme" / "mood"
    for config in configs or ("",):
        (where / config).mkdir(parents=True, exist_ok=True)
        for split in splits:
            rows.to_parquet(str(where / config / f"{split}.parquet"))
    if configs:
        card = "".join(f"- {{config_name: {one}, data_files: {one}/*.parquet}}\n" for one in configs)
        (where / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    return "acme/mood"


def plan_of(folder: Path, task: Any = "mood", **data: Any) -> Plan:
    return make_plan(tiny_study(tasks=[task], data={"dataset": "acme/mood", **data}), folder)


def refused(folder: Path, task: Any = "mood", **data: Any) -> str:
    with pytest.raises(StudyError) as caught:
        plan_of(folder, task, **data)
    assert caught.value.where[0] in ("tasks", "data", "data_per_task")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_alone_is_a_task_where_nothing_is_in_doubt(tmp_path: Path) -> None:
    save(tmp_path, "id", "text", "label", "kind")
    plan = plan_of(tmp_path)
    (task,) = plan.tasks
    assert (task.text, task.label, task.labels) == (["text"], "label", MOODS)
    assert plan.study.tasks == [task]  # the manifest tells it without the hub
    data = load_task(task, plan.study.data_for("mood"), tmp_path)
    assert data.train.texts == (COLUMNS["text"][1],)
    assert data.train.labels.tolist() == COLUMNS["label"][1]
    assert list(data.report) == ["validation"]
    assert data.notes == (
        "mood is acme/mood: text in text, classes in label (sad, glad, angry), train = train, validation = test",
    )


@pytest.mark.parametrize(
    ("columns", "given", "found"),
    [
        (("title", "kind", "label"), {"text": ["title"]}, (["title"], "label", MOODS)),
        (("text", "kind"), {"label": "kind"}, (["text"], "kind", ["ham", "spam"])),
        (("text", "label", "kind"), {"label": "kind"}, (["text"], "kind", ["ham", "spam"])),
        (("text", "stars"), {"label": "stars"}, (["text"], "stars", ["1", "5"])),
        (("text", "whole"), {"label": "whole"}, (["text"], "whole", ["1", "5"])),
        (("title", "gap"), {}, (["title"], "gap", MOODS)),
        (
            ("title", "text", "label"),
            {"text": ["title", "text"], "labels": MOODS[::-1]},
            (["title", "text"], "label", MOODS[::-1]),
        ),
    ],
)
def test_what_is_named_is_taken_and_the_rest_is_found(
    tmp_path: Path, columns: tuple[str, ...], given: dict[str, Any], found: tuple[Any, ...]
) -> None:
    save(tmp_path, *columns)
    plan = plan_of(tmp_path, {"name": "mood", **given}, broken_rows="drop")
    (task,) = plan.tasks
    assert (task.text, task.label, task.labels) == found
    data = load_task(task, plan.study.data_for("mood"), tmp_path)
    values = [value for value in COLUMNS[task.label][1] if value != -1]
    names = getattr(COLUMNS[task.label][0], "names", None)
    shown = [names[value] if names else str(value).removesuffix(".0") for value in values]
    assert [task.labels[label] for label in data.train.labels] == shown
    assert ("without 2 rows" in data.origin) == (task.label == "gap")


@pytest.mark.parametrize(
    ("columns", "given", "said"),
    [
        (("title", "kind", "label"), {}, "one or two columns hold the text.*columns of text: title, kind"),
        (("text", "kind"), {}, "which column holds the label.*columns: text, kind"),
        (("text", "label", "gap"), {"label": "lable"}, "no column 'lable'. Did you mean 'label'"),
        (("text", "label"), {"text": ["txet"]}, "no column 'txet'. Did you mean 'text'"),
        (("text", "score"), {"label": "score"}, "'score' holds numbers such as 0.3: regression is not supported"),
        (("text", "tags"), {"label": "tags"}, "'tags' holds lists: several labels a row are not supported"),
        (("title", "id"), {"label": "id"}, "12 different values in 12 rows, which are no classes"),
    ],
)
def test_what_cannot_be_told_or_is_no_classification_is_refused(
    tmp_path: Path, columns: tuple[str, ...], given: dict[str, Any], said: str
) -> None:
    save(tmp_path, *columns)
    message = refused(tmp_path, {"name": "mood", **given})
    assert re.search(said, message), message


def test_rows_that_are_no_classes_are_refused_where_everything_is_named(tmp_path: Path) -> None:
    save(tmp_path, "text", "score", "tags", "gap")
    for label, said in (("score", "regression"), ("tags", "several labels a row"), ("gap", "label -1 is none of")):
        plan = plan_of(tmp_path, {**NAMED, "label": label})
        with pytest.raises(Exception, match=said):
            load_task(plan.tasks[0], plan.study.data_for("mood"), tmp_path)


def test_splits_and_configurations_are_named_where_there_are_several(tmp_path: Path) -> None:
    save(tmp_path, "text", "label", splits=("train",))
    assert "needs a train split and one of validation, valid, dev, test, found train" in refused(tmp_path)
    parts = {"train": "train[:8]", "validation": "train[8:]"}
    plan = plan_of(tmp_path, splits=parts)
    data = load_task(plan.tasks[0], plan.study.data_for("mood"), tmp_path)
    assert (len(data.train), len(data.report["validation"])) == (8, 4)
    assert "Did you mean 'train'?" in refused(tmp_path, splits={**parts, "train": "trian"})
    save(tmp_path / "more", "text", "label", configs=("en", "de"))
    assert "name one of ['en', 'de'] with `config:`" in refused(tmp_path / "more")
    assert "'dee' not found" in (said := refused(tmp_path / "more", config="dee"))
    assert "Did you mean 'de'?" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"dataset": "acme/mood", "source": "generated"}, "`dataset` is for rows of the hub"),
        ({"config": "en"}, "`config` says which part of `dataset` is meant, and that is missing"),
        ({"dataset": "acme/mood", "splits": {"train": "a"}}, "splits needs `train` and `validation`, got"),
        ({"dataset": "acme/mood", "splits": {"train": "a", "validation": "b", "fit": "c"}}, "splits cannot call a split 'fit'"),
    ],
)
def test_data_that_cannot_be_meant_are_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_study(tasks=[NAMED], data=data)


def test_a_built_in_task_keeps_its_rows(tmp_path: Path) -> None:
    save(tmp_path, "text", "label")
    assert "'cola' is GLUE's own task" in refused(tmp_path, "cola")
    content = tiny_study(tasks=["cola", "mood"]).model_dump(mode="json")
    study = Study.model_validate({**content, "data_per_task": {"mood": {"source": "hub", "dataset": "acme/mood"}}})
    assert [task.name for task in make_plan(study, tmp_path).tasks] == ["cola", "mood"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Address of a hub on this machine that has `acme/mood`."""
    save(tmp_path / "files", "text", "label")
    shutil.copytree(tmp_path / "files" / "acme" / "mood", tmp_path / "hub" / "datasets" / "acme" / "mood" / "main")
    with Hub(tmp_path / "hub") as running:
        yield running.url


STUDY = """
name: mood
tasks: [mood]
strategies: [ce_only]
data: {source: hub, dataset: acme/mood}
models: {student: {config: {model_type: bert}}, teachers: [{config: {model_type: bert}}]}
"""


def test_a_plan_reads_the_hub(hub: str, tmp_path: Path) -> None:
    """In a process of its own, for both: the libraries read their environment when they are imported."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text(STUDY)
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    plan = ["plan", str(tmp_path / "study" / "study.yaml")]
    code = "import sys; from harness.__main__ import main; print(*(main(verb) for verb in eval(sys.argv[1])))"
    both = repr([plan, [*plan, "--set", "data.dataset=acme/nothing"]])
    command = [sys.executable, "-c", code, both]
    found = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert found.stdout.splitlines()[-1] == "0 2", found.stderr
    assert "mood" in found.stdout
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert "'acme/nothing' cannot be had from the hub:" in line


def test_a_local_copy_of_the_repository_is_loaded_by_the_hubs_own_library(tmp_path: Path) -> None:
    frame = pd.DataFrame({"premise": ["p", "q"], "hypothesis": ["h", "i"], "label": [0, 2], "idx": [0, 1]})
    (tmp_path / "mnli").mkdir()
    for split in ("train", "validation_matched", "validation_mismatched"):
        frame.to_parquet(tmp_path / "mnli" / f"{split}-00000-of-00001.parquet")
    card = "---\nconfigs:\n- config_name: mnli\n  data_files:\n"
    for split in ("train", "validation_matched", "validation_mismatched"):
        card += f"  - split: {split}\n    path: mnli/{split}-*\n"
    (tmp_path / "README.md").write_text(card + "---\n")
    data = load_task(GLUE["mnli"], DataSpec(hub_name=str(tmp_path)))
    assert data.train.labels.tolist() == [0, 2]
    assert set(data.report) == {"validation", "validation_mismatched"}


def test_a_hub_out_of_reach_is_said_with_a_way_out() -> None:
    with pytest.raises(DataError, match=r"cannot be had from the hub.*data\.source=directory"):
        load_task(GLUE["rte"], DataSpec(hub_name="nobody/nothing"))


@pytest.mark.parametrize("names", [["1", "2"], ["1", "0"], ["-1", "1"]])
def test_classes_that_are_called_by_numbers_are_not_taken_for_ids(names: list[str]) -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=names)})
    task = TaskSpec(name="stars", text=["text"], labels=names)
    frame = with_label_names(pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}), features, task)
    assert rows_from_frame(frame.rename_axis("row"), task, "hub").labels.tolist() == [0, 1]


def test_label_ids_are_read_by_what_the_data_set_calls_them(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_entailment", "entailment"]),
        }
    )
    rows = datasets.Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}, features=features)
    (tmp_path / "rte").mkdir()
    card = "---\nconfigs:\n- config_name: rte\n  data_files:\n"
    for split in ("train", "validation"):
        rows.to_parquet(str(tmp_path / "rte" / f"{split}.parquet"))
        card += f"  - split: {split}\n    path: rte/{split}.parquet\n"
    (tmp_path / "README.md").write_text(card + "---\n")
    assert load_task(GLUE["rte"], DataSpec(hub_name=str(tmp_path))).train.labels.tolist() == [1, 0]
