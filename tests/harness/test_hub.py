"""Models and rows from a stand-in of the hub on this machine: what is asked, how often, and what is said where it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    root = tmp_path / "root"
    model = root / "models/acme/small/main"
    model.mkdir(parents=True)
    save_small(model)
    data(root, "main", 0)
    data(root, "other", 1)
    with Hub(root) as running:
        yield running


def ask(hub: Hub, code: str, **environment: str) -> str:
    """The last line of a process of its own: the libraries read their environment when they are imported."""
    home = hub.root.parent
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(PROJECT)}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    sys.stdout.write(ran.stdout + ran.stderr)  # shown where a test fails
    return (ran.stdout.strip() or ran.stderr.strip()).splitlines()[-1]


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


def test_two_tasks_of_one_data_set_are_of_one_commit(hub: Hub) -> None:
    code = "from harness.data.source import *; from harness.study.tasks import GLUE\nfrom harness.hub import commits\n"
    code += "for task in ('rte', 'sst2'): print(len(load_task(GLUE[task], DataSpec()).train), len(commits()))"
    assert ask(hub, code) == "60 1"
    assert len([r for r in hub.requests if "/revision/" in r["path"]]) == 1


def test_fetched_once_then_found_offline(hub: Hub) -> None:
    digest = ask(hub, MODEL % None)
    assert len(digest) == 24
    assert ask(hub, MODEL % None, HF_HUB_OFFLINE="1") == digest
    assert not [r for r in hub.requests if ".bin" in r["path"]]


def test_a_dropped_connection_is_taken_up_again(hub: Hub) -> None:
    hub.fail(r"GET /cdn/.*safetensors", cut_at=1000)
    assert len(ask(hub, MODEL % None)) == 24
    assert len([r for r in hub.requests if "/cdn/" in r["path"]]) == 2


@pytest.mark.slow
def test_a_connection_that_always_drops_is_an_error_of_ours(hub: Hub) -> None:
    hub.fail(r"GET /cdn/.*safetensors", times=99, cut_at=0)
    said = ask(hub, MODEL % None)
    assert said.startswith("ModelError model 'acme/small' is no local directory and could not be had from the hub (")


@pytest.mark.parametrize(("token", "said"), [("", "401"), pytest.param("hf_other", "403", marks=pytest.mark.slow)])
def test_gated(hub: Hub, token: str, said: str) -> None:
    (hub.root / "models/acme/small/hub.json").write_text(json.dumps({"gated": True}))
    told = ask(hub, MODEL % None, HF_TOKEN=token)
    assert said in told
    assert "is restricted" in told
    assert len(ask(hub, MODEL % None, HF_TOKEN="hf_reader")) == 24


def test_what_is_not_there_is_called_so(hub: Hub) -> None:
    assert "Invalid rev id: v9" in ask(hub, MODEL % "v9").split("could not be had")[1]
    shutil.rmtree(hub.root / "models/acme/small")
    assert "401" in ask(hub, MODEL % None)


def test_too_many_requests_are_waited_for_as_long_as_the_hub_says(hub: Hub) -> None:
    hub.fail(r"GET /api/models/acme/small/revision", times=1, status=429, headers={"Retry-After": "1"})
    assert len(ask(hub, MODEL % None)) == 24
    first, second = [r["time"] for r in hub.requests if "/api/models/acme/small/revision" in r["path"]][:2]
    assert second - first >= 1
    hub.fail(r"GET /api/models/acme/small/revision", times=99, status=429, headers={"Retry-After": "0"})
    shutil.rmtree(hub.root.parent / "hf")
    assert "429" in ask(hub, MODEL % None)


def test_rows_at_a_revision_and_offline_that_revision_or_an_error(hub: Hub) -> None:
    assert ask(hub, ROWS % [None, "other"]) == "0 1"
    said = ask(hub, ROWS % [None, "other", "never-fetched"], HF_HUB_OFFLINE="1")
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


def test_only_the_driver_asks_and_what_changes_meanwhile_changes_nothing(hub: Hub) -> None:
    home = hub.root.parent
    (home / "study.yaml").write_text(STUDY)
    cache = {"HARNESS_CACHE": str(home / "cache")}
    assert ask(hub, RUN, **cache) == "0"
    resolved = [r for r in hub.requests if r["path"].startswith("/api/") and "/revision/" in r["path"]]
    assert len(resolved) == 2, resolved  # the model and the data set, once each
    hub.requests.clear()
    save_small(hub.root / "models/acme/small/main")
    config = hub.root / "models/acme/small/main/config.json"  # another commit under the same name
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_norm_eps": 0.5}))
    assert ask(hub, TRIAL, **cache) == "True"
    assert hub.requests == []


def test_a_hub_that_refuses_is_one_line_and_exit_code_2(hub: Hub) -> None:
    (hub.root.parent / "study.yaml").write_text(STUDY)
    (hub.root / "models/acme/small/hub.json").write_text(json.dumps({"gated": True}))
    cache = {"HARNESS_CACHE": str(hub.root.parent / "cache")}
    assert ask(hub, RUN, HF_TOKEN="", **cache) == "2"
