import json
from pathlib import Path

import pytest
import torch

from harness.errors import ModelError
from harness.models.build import build_model, run_model
from harness.models.check import check_model, check_shape
from harness.models.families import positions_refusal, usable_positions
from harness.models.tokenizing import load_tokenizer
from harness.plan.plan import make_plan
from harness.study.schema import ModelSpec
from harness.teachers.prepare import prepare
from harness.watching.console import Console
from tests.harness.models.families import ALL
from tests.harness.tiny import tiny_study

TEXTS = [["a b c d e f", "a b"]]


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(ModelSpec(config=ALL["bert"]), TEXTS[0], tmp_path)


def check(config, tokenizer, max_length=32, moved=None, **spec):
    return check_model(ModelSpec(config=config, **spec), 2, tokenizer, TEXTS, max_length, moved)


@pytest.mark.parametrize("kind", ALL)
def test_every_family_passes_and_eager_attention_is_said(kind, tokenizer):
    notes = check(ALL[kind], tokenizer)
    with_sdpa = {"bert", "roberta", "electra", "albert", "modernbert", "gpt2", "llama", "qwen2", "bart", "t5"}
    assert notes == ([] if kind in with_sdpa else [f"attention is eager: transformers has no SDPA for {kind}"])


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({**ALL["mpnet"], "hidden_size": 15}, {}, "15"),
        (ALL["mpnet"], {"layers": [5]}, "has the layers 0 to 1"),
        (ALL["t5"], {"layers": [0]}, "has no single list of layers"),
        (ALL["bart"], {"pooling": "mean"}, "pooling: mean` is not there"),
        ({**ALL["bart"], "eos_token_id": 9}, {}, "cannot be run on rows of this task: .*<eos>"),
        (ALL["bert"], {"max_length": 513}, "has 512 positions, but data.max_length is 513"),
        (ALL["bert"], {"moved": 3}, "move its last 3 layers, and it has 2"),
        (ALL["albert"], {"moved": 1}, "has no single list of layers"),
        ({**ALL["xlnet"], "summary_type": "mean"}, {}, "depends on how far the row is padded"),
    ],
)
def test_a_model_that_cannot_be_used(config, changes, message, tokenizer):
    with pytest.raises(ModelError, match=message):
        check(config, tokenizer, **changes)


def test_features_of_a_token_that_sees_nothing_are_said(tokenizer, monkeypatch):
    monkeypatch.setattr("harness.models.pooling.is_causal", lambda model: False)  # as for a family that nobody knows
    (note,) = check(ALL["gpt2"], tokenizer)
    assert "pooled features are the same for all rows" in note


@pytest.mark.parametrize("kind", ["ctrl", "modernbert-decoder"])
def test_causal_families_whose_classifier_has_another_name(kind, tokenizer):
    small = {"n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 32} if kind == "ctrl" else {**ALL["llama"]}
    assert check({**small, "model_type": kind}, tokenizer) == []


TABLES = [
    "bert",
    "roberta",
    "electra",
    "albert",
    "mpnet",
    "squeezebert",
    "rembert",
    "convbert",
    "fnet",
    "longformer",
    "big_bird",
]


@pytest.mark.parametrize("kind", ALL)
def test_every_family_is_built_without_weights_and_data(kind, tmp_path):
    layers = 2 if kind in ("bert", "roberta", "gpt2") else None
    check_shape(ModelSpec(config=ALL[kind]), 3, 32, tmp_path, layers)
    assert not list(tmp_path.iterdir())  # no tokenizer is made


@pytest.mark.parametrize(
    ("config", "changes", "moved", "message"),
    [
        ({**ALL["mpnet"], "hidden_size": 15}, {}, None, "15"),
        (ALL["mpnet"], {"layers": [5]}, None, "has the layers 0 to 1"),
        (ALL["t5"], {"layers": [0]}, None, "has no single list of layers"),
        (ALL["bart"], {"pooling": "mean"}, None, "pooling: mean` is not there"),
        ({**ALL["bert"], "max_position_embeddings": 31}, {}, None, "has 31 positions, but data.max_length is 32"),
        (ALL["bert"], {}, 3, "move its last 3 layers, and it has 2"),
        (ALL["albert"], {}, 1, "has no single list of layers"),
        ({"model_type": "vit"}, {}, None, "no sequence classifier can be made from the config"),
    ],
)
def test_what_is_wrong_before_data_and_weights(config, changes, moved, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        check_shape(ModelSpec(config=config, **changes), 2, 32, tmp_path, moved)


def test_a_pretrained_model_is_built_from_its_files_without_reading_weights(tmp_path, tokenizer):
    build_model(ModelSpec(config=ALL["bert"]), 5, 0, len(tokenizer), tokenizer=tokenizer).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    spec = ModelSpec(model=str(tmp_path / "saved"))
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(b"")
    check_shape(spec, 2, 32, tmp_path, 2)
    tokenizer.add_tokens(["many", "more"])
    tokenizer.save_pretrained(tmp_path / "larger")
    with pytest.raises(ModelError, match=r"knows \d+ tokens, but its tokenizer has \d+"):
        check_shape(spec.model_copy(update={"tokenizer": str(tmp_path / "larger")}), 2, 32, tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "saved" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        check_shape(spec, 2, 32, tmp_path)


def test_models_are_tried_before_any_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.teachers.prepare.load_task", lambda *_: pytest.fail("data were read"))
    models = {"student": {"config": {**ALL["bert"], "num_attention_heads": 3}}, "teachers": [{"config": ALL["bert"]}]}
    with pytest.raises(ModelError, match=r"the student: .*attention heads"):
        prepare(make_plan(tiny_study(models=models), Path.cwd()), tmp_path, Console(quiet=True))
    models = {"student": models["teachers"][0], "teachers": [{"name": "large", **models["student"]}]}
    with pytest.raises(ModelError, match=r"teacher 'large': .*attention heads"):
        prepare(make_plan(tiny_study(models=models), Path.cwd()), tmp_path, Console(quiet=True))
    strategies = [{"name": "rw_kd", "settings": {"look_ahead_layers": 2}}]
    with pytest.raises(ModelError, match="the student: a look-ahead shall move its last 2 layers, and it has 1"):
        prepare(make_plan(tiny_study(strategies=strategies), Path.cwd()), tmp_path, Console(quiet=True))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kind", TABLES)
def test_the_longest_row_passes_and_one_token_more_does_not(kind, padding):
    config = {**ALL[kind], "max_position_embeddings": 24, "pad_token_id": padding}
    usable = usable_positions(config)
    model = build_model(ModelSpec(config=config), 2, 0, 40).eval()

    def run(length):
        tokens = torch.full((1, length), 7)
        return run_model(model, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}).logits

    assert run(usable).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        run(usable + 1)
    assert positions_refusal(config, usable) is None
    assert f"{usable}" in positions_refusal(config, usable + 1) or usable == 24


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "n_positions": 512},
        {"model_type": "xlnet", "max_position_embeddings": -1},
        {"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False},
        {},
    ],
)
def test_relative_positions_have_no_end(config):
    assert usable_positions(config) is None


def test_gpt2_calls_them_otherwise():
    assert usable_positions({"model_type": "gpt2", "n_positions": 16}) == 16
