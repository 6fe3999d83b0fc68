"""The hub's loader, against a local copy of a repository: no network."""

from __future__ import annotations

from pathlib import Path

import datasets
import pandas as pd
import pytest

from harness.data.source import load_task
from harness.errors import DataError
from harness.study.schema import DataSpec
from harness.study.tasks import GLUE


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
