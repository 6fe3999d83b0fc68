"""Models and rows from a stand-in of the hub on this machine: what is asked, how often, and what is said where it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import PROJECT
from tests.harness.hub_server import Hub
from tests.harness.small_models import save_small

CARD = """---
configs:
- config_name: rte
  data_files:
  - {split: train, path: rte/train-*}
  - {split: validation, path: rte/validation-*}
- config_name: sst2
  data_files:
  - {split: train, path: sst2/train-*}
  - {split: validation, path: sst2/validation-*}
---
"""


def data(root: Path, revision: str, first: int) -> None:
    folder = root / "datasets/nyu-mll/glue" / revision
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    texts, labels = [f"w{i % 9} v{i % 7}" for i in range(60)], [first, 1 - first] * 30
    of = {"rte": {"sentence1": texts, "sentence2": ["c"] * 60, "label": labels}, "sst2": {"sentence": texts, "label": labels}}
    for task, rows in of.items():
        (folder / task).mkdir()
        for split in ("train", "validation"):
            pd.DataFrame({**rows, "idx": range(60)}).to_parquet(folder / task / f"{split}-00000-of-00001.parquet")


ANSWERING = """
import json, os, sys, traceback
import datasets, harness.commands.run, harness.engine.inline, harness.models.lean_layers, harness.training.trial
for line in sys.stdin:
    asked = json.loads(line)
    if os.fork() == 0:
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        try:
            exec(asked["code"], {})
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    print("answered", flush=True)
"""


def environment(hub: Hub, home: Path) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(PROJECT)}


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path, subprocess.Popen[str]]]:
    """A hub, its clients' home, and a process that has imported what they need: the libraries read their environment meanwhile.
    Each client is forked from it, as importing takes longer than what is asked.
    """
    home = tmp_path_factory.mktemp("hf")
    with Hub(home) as hub:
        command = [sys.executable, "-c", ANSWERING]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment(hub, home), cwd=PROJECT, **pipes) as process:  # type: ignore[call-overload]
            yield hub, home, process
            process.stdin.close()


@pytest.fixture
def hub(tmp_path: Path, answering: tuple[Hub, Path, subprocess.Popen[str]]) -> Hub:
    hub, home, _ = answering
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    hub.root = tmp_path / "root"
    hub.faults.clear()
    hub.requests.clear()
    model = hub.root / "models/acme/small/main"
    model.mkdir(parents=True)
    save_small(model)
    data(hub.root, "main", 0)
    data(hub.root, "other", 1)
    return hub


Ask = Callable[..., str]


@pytest.fixture
def ask(hub: Hub, answering: tuple[Hub, Path, subprocess.Popen[str]]) -> Ask:
    """The last line of a process of its own."""
    _, home, process = answering
    folder = hub.root.parent

    def ask(code: str, offline: bool = False, **further: str) -> str:
        if offline:  # read at the import
            env = {**environment(hub, home), **further, "HF_HUB_OFFLINE": "1"}
            command = [sys.executable, "-c", code]
            ran = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
            said, errors = ran.stdout, ran.stderr
        else:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"code": code, "folder": str(folder), "environment": further}) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "answered\n"
            said, errors = ((folder / name).read_text() for name in ("stdout", "stderr"))
        sys.stdout.write(said + errors)  # shown where a test fails
        return (said.strip() or errors.strip()).splitlines()[-1]

    return ask


MODEL = """
from harness.models.sources import *
from harness.study.schema import ModelSpec
try: print(model_digest(ModelSpec(model='acme/small', revision=%r)))
except ModelError as e: print('ModelError', e)
"""
ROWS = """
from harness.data.source import *
from harness.study.tasks import GLUE
for revision in %r:
    try: print(load_task(GLUE['rte'], DataSpec(hub_revision=revision)).train.labels[0], end=' ')
    except DataError as e: print('DataError', e)
"""


def test_two_tasks_of_one_data_set_are_of_one_commit(hub: Hub, ask: Ask) -> None:
    code = "from harness.data.source import *; from harness.study.tasks import GLUE\nfrom harness.hub import commits\n"
    code += "for task in ('rte', 'sst2'): print(len(load_task(GLUE[task], DataSpec()).train), len(commits()))"
    assert ask(code) == "60 1"
    assert len([r for r in hub.requests if "/revision/" in r["path"]]) == 1


def test_fetched_once_then_found_offline(hub: Hub, ask: Ask) -> None:
    digest = ask(MODEL % None)
    assert len(digest) == 24
    assert ask(MODEL % None, offline=True) == digest
    assert not [r for r in hub.requests if ".bin" in r["path"]]


def test_a_dropped_connection_is_taken_up_again(hub: Hub, ask: Ask) -> None:
    hub.fail(r"GET /cdn/.*safetensors", cut_at=1000)
    assert len(ask(MODEL % None)) == 24
    assert len([r for r in hub.requests if "/cdn/" in r["path"]]) == 2


@pytest.mark.slow
def test_a_connection_that_always_drops_is_an_error_of_ours(hub: Hub, ask: Ask) -> None:
    hub.fail(r"GET /cdn/.*safetensors", times=99, cut_at=0)
    said = ask(MODEL % None)
    assert said.startswith("ModelError model 'acme/small' is no local directory and could not be had from the hub (")


@pytest.mark.parametrize(("token", "said"), [("", "401"), pytest.param("hf_other", "403", marks=pytest.mark.slow)])
def test_gated(hub: Hub, ask: Ask, token: str, said: str) -> None:
    (hub.root / "models/acme/small/hub.json").write_text(json.dumps({"gated": True}))
    told = ask(MODEL % None, HF_TOKEN=token)
    assert said in told
    assert "is restricted" in told
    assert len(ask(MODEL % None, HF_TOKEN="hf_reader")) == 24


def test_what_is_not_there_is_called_so(hub: Hub, ask: Ask) -> None:
    assert "Invalid rev id: v9" in ask(MODEL % "v9").split("could not be had")[1]
    shutil.rmtree(hub.root / "models/acme/small")
    assert "401" in ask(MODEL % None)


def test_too_many_requests_are_waited_for_as_long_as_the_hub_says(
    hub: Hub, ask: Ask, answering: tuple[Hub, Path, subprocess.Popen[str]]
) -> None:
    hub.fail(r"GET /api/models/acme/small/revision", times=1, status=429, headers={"Retry-After": "1"})
    assert len(ask(MODEL % None)) == 24
    first, second = [r["time"] for r in hub.requests if "/api/models/acme/small/revision" in r["path"]][:2]
    assert second - first >= 1
    hub.fail(r"GET /api/models/acme/small/revision", times=99, status=429, headers={"Retry-After": "0"})
    shutil.rmtree(answering[1])
    assert "429" in ask(MODEL % None)


def test_rows_at_a_revision_and_offline_that_revision_or_an_error(hub: Hub, ask: Ask) -> None:
    assert ask(ROWS % [None, "other"]) == "0 1"
    said = ask(ROWS % [None, "other", "never-fetched"], offline=True)
    assert said.startswith("0 1 DataError the data set 'nyu-mll/glue'")


STUDY = """
name: hub
tasks: [rte]
strategies: [fixed_alpha]
data: {source: hub, max_length: 16, train_rows: 60, report_rows: 20}
models:
  student: {model: acme/small, tokenizer: words, dropout: 0.0}
  teachers: [{model: acme/small, tokenizer: words, training: {epochs: 1}}]
training: {epochs: 1, batch_size: 16}
search: {trials: 1, repeats: 1}
resources: {engine: inline}
results: results
"""
RUN = """
import sys
import harness.report, harness.report.terminal
from harness.__main__ import main
harness.report.build_report = lambda path: harness.report.Report(path, (), (), '')  # it has tests of its own
harness.report.terminal.printed = lambda board, only=(): board
sys.stderr = sys.stdout
print(main(['run', 'study.yaml', '--quiet']))
"""
TRIAL = """
import json, sys
from pathlib import Path
from harness.records import TrialRecord
from harness.store.store import Store
from harness.training.trial import train_trial
(record,) = Store('results/hub').records()
print(train_trial(record.spec, Path('cache')).record.objective == record.objective)
"""


def test_only_the_driver_asks_and_what_changes_meanwhile_changes_nothing(hub: Hub, ask: Ask) -> None:
    home = hub.root.parent
    (home / "study.yaml").write_text(STUDY)
    cache = {"HARNESS_CACHE": str(home / "cache")}
    assert ask(RUN, **cache) == "0"
    resolved = [r for r in hub.requests if r["path"].startswith("/api/") and "/revision/" in r["path"]]
    assert len(resolved) == 2, resolved  # the model and the data set, once each
    hub.requests.clear()
    save_small(hub.root / "models/acme/small/main")
    config = hub.root / "models/acme/small/main/config.json"  # another commit under the same name
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_norm_eps": 0.5}))
    assert ask(TRIAL, **cache) == "True"
    assert hub.requests == []


def test_a_hub_that_refuses_is_one_line_and_exit_code_2(hub: Hub, ask: Ask) -> None:
    (hub.root.parent / "study.yaml").write_text(STUDY)
    (hub.root / "models/acme/small/hub.json").write_text(json.dumps({"gated": True}))
    cache = {"HARNESS_CACHE": str(hub.root.parent / "cache")}
    assert ask(RUN, HF_TOKEN="", **cache) == "2"
