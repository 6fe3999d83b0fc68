import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.errors import ModelError
from harness.models.build import build_model, count_parameters, encoder_layers, hidden_size, resolve_model_path, run_model
from harness.models.sources import model_directory
from harness.study.schema import ModelSpec
from tests.harness.small_models import CONFIGS, MINILM, SMALL, VOCABULARY, inputs, same, save_small, small


@pytest.fixture
def saved(tmp_path):
    return save_small(tmp_path / "saved")


def test_minilm_from_its_package_is_cut_to_chosen_layers(capfd):
    spec = ModelSpec(model=MINILM, layers=[0, 2, 4], dropout=0.0)
    state = torch.get_rng_state()
    student = build_model(spec, 2, 7, 30522)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    assert (student.config.num_hidden_layers, hidden_size(student)) == (3, 384)
    assert count_parameters(student) == 17_390_594
    weights = load_file(Path(resolve_model_path(MINILM)) / "model.safetensors")
    for ours, theirs in enumerate([0, 2, 4]):
        name = "attention.self.query.weight"
        assert torch.equal(student.bert.encoder.layer[ours].get_parameter(name), weights[f"encoder.layer.{theirs}.{name}"])

    torch.manual_seed(99)
    again, other = build_model(spec, 2, 7, 30522), build_model(spec, 2, 8, 30522)
    assert same(student, again)
    assert same(student, other, without=["classifier.weight"])
    assert not torch.equal(student.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_s_weights_depend_on_the_seed_alone(kind):
    state = torch.get_rng_state()
    first = small(kind, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12345)
    assert same(first, small(kind, seed=1))
    assert not same(first, small(kind, seed=2))
    assert first.training
    assert all(p.dtype == torch.float32 for p in first.parameters())


def test_a_directory_keeps_a_head_that_fits(saved):
    assert same(build_model(ModelSpec(model=str(saved)), 3, 5, VOCABULARY), small())


def test_a_head_for_other_classes_is_made_anew(saved):
    model = build_model(ModelSpec(model=str(saved)), 2, 5, VOCABULARY)
    assert model.classifier.weight.shape == (2, 16)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, small().bert.embeddings.word_embeddings.weight)
    again = build_model(ModelSpec(model=str(saved)), 2, 5, VOCABULARY)
    assert same(model, again)


def test_half_precision_weights_become_float32(saved):
    weights = {name: tensor.bfloat16() for name, tensor in load_file(saved / "model.safetensors").items()}
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    model = build_model(ModelSpec(model=str(saved)), 3, 0, VOCABULARY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "no JSON"),
        (lambda d: (d / "config.json").write_text('{"model_type": "berd"}'), "cannot be loaded"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x00" * 100), "cannot be loaded"),
        (lambda d: (d / "model.safetensors").unlink(), "has no weights"),
    ],
)
def test_a_damaged_directory_is_named(saved, damage, message):
    damage(saved)
    with pytest.raises(ModelError, match=message) as caught:
        build_model(ModelSpec(model=str(saved)), 3, 0, VOCABULARY)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "resized"])
def test_a_checkpoint_without_a_part_of_the_encoder_is_refused(saved, change):
    weights = load_file(saved / "model.safetensors")
    name = "bert.encoder.layer.1.attention.self.query.weight"
    if change == "missing":
        del weights[name]
    else:
        weights[name] = torch.zeros(8, 16)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layer\.1\.attention\.self\.query\.weight"):
        build_model(ModelSpec(model=str(saved)), 3, 0, VOCABULARY)


def test_loading_leaves_transformers_logging_as_it_was(saved, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    build_model(ModelSpec(model=str(saved)), 2, 0, VOCABULARY)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", CONFIGS)
def test_chosen_layers_are_kept_in_their_order(kind):
    whole, cut = small(kind), small(kind, layers=[2, 0])
    for ours, theirs in enumerate([2, 0]):
        a, b = encoder_layers(cut)[ours], encoder_layers(whole)[theirs]
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert len(encoder_layers(cut)) == cut.config.num_hidden_layers == 2
    assert run_model(cut, inputs()).logits.shape == (4, 3)


def test_a_cut_model_is_a_model_like_any_other(tmp_path):
    cut = small(layers=[0, 2]).eval()
    cut.save_pretrained(tmp_path / "cut")
    back = build_model(ModelSpec(model=str(tmp_path / "cut")), 3, 0, VOCABULARY).eval()
    torch.testing.assert_close(run_model(back, inputs()).logits, run_model(cut, inputs()).logits)


@pytest.mark.parametrize("layers", [[3], [-1], [0, 0], []])
def test_layers_that_cannot_be_chosen(layers):
    with pytest.raises(ModelError, match="has the layers 0 to 2"):
        small(layers=layers)


def test_layers_of_another_kind_of_model():
    config = {"model_type": "albert", **SMALL, "embedding_size": 8}
    with pytest.raises(ModelError, match="AlbertForSequenceClassification has no single list of layers"):
        build_model(ModelSpec(config=config, layers=[0]), 2, 0, VOCABULARY)


@pytest.mark.parametrize("kind", CONFIGS)
def test_dropout_is_set_everywhere(kind):
    def probabilities(model):
        return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}

    assert probabilities(small(kind, dropout=0.3)) == {0.3}
    assert probabilities(small(kind, dropout=0.0)) == {0.0}
    assert 0.1 in probabilities(small(kind))


def test_dropout_of_a_loaded_model(saved):
    model = build_model(ModelSpec(model=str(saved), dropout=0.0), 3, 0, VOCABULARY)
    assert torch.equal(run_model(model, inputs()).logits, run_model(model, inputs()).logits)


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_kinds_of_attention_compute_the_same(kind):
    outputs = []
    for attention in ("sdpa", "eager"):
        model = build_model(ModelSpec(config=CONFIGS[kind]), 3, 0, VOCABULARY, attention).eval()
        assert model.config._attn_implementation == attention
        given = inputs()
        given["attention_mask"][1, 4:] = 0
        outputs.append(run_model(model, given).logits)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bird"}, "bird"),
        ({**CONFIGS["bert"], "hidden_size": 15}, "15"),
        ({**CONFIGS["bert"], "vocab_size": 10}, "knows 10 tokens, but its tokenizer has 40"),
    ],
)
def test_a_config_that_makes_no_model(config, message):
    with pytest.raises(ModelError, match=message):
        build_model(ModelSpec(config=config), 2, 0, VOCABULARY)


@pytest.mark.parametrize("kind", CONFIGS)
def test_features_are_the_last_hidden_state_of_the_first_token(kind):
    model = small(kind, dropout=0.0)
    given = inputs()
    plain, both = run_model(model, given), run_model(model, given, features=True)
    assert plain.features is None
    torch.testing.assert_close(both.logits, plain.logits)
    used = {k: v for k, v in given.items() if k != "token_type_ids" or kind != "distilbert"}
    torch.testing.assert_close(both.features, model.base_model(**used).last_hidden_state[:, 0])
    assert both.features.shape == (4, hidden_size(model))


def test_outputs_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run_model(small(), inputs(), features=True)
    assert found.logits.dtype == found.features.dtype == torch.float32


def test_a_wrapped_model_runs_alike():
    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **given):
            return self.module(**given)

    model = small("roberta", dropout=0.0)
    torch.testing.assert_close(run_model(Wrapped(model), inputs()).logits, run_model(model, inputs()).logits)
    assert hidden_size(Wrapped(model)) == 16


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_last_layer_s_other_tokens_are_left_out_and_nothing_changes(kind):
    model = small(kind, dropout=0.0)
    last = encoder_layers(model)[-1]
    hooked = last.sa_layer_norm if kind == "distilbert" else last.attention.output
    (key,) = hooked._forward_pre_hooks
    lengths = []
    last.register_forward_hook(lambda _, __, output: lengths.append(output.shape[1]))
    given = inputs()
    given["attention_mask"][1, 4:] = 0

    def run():
        model.zero_grad()
        outputs = run_model(model, given, features=True)
        (outputs.logits.square().sum() + outputs.features.square().sum()).backward()
        return [outputs.logits, outputs.features, *(p.grad for p in model.parameters() if p.grad is not None)]

    few = run()
    hooked._forward_pre_hooks.pop(key)
    last.first_token_alone = False  # of lean layers
    whole = run()
    assert lengths == [1, 7]
    for ours, theirs in zip(few, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_directory_with_nearly_that_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-teacher").mkdir()
    (tmp_path / "my-teacher" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for given in ("./my-techer", "my-techer"):
        with pytest.raises(ModelError, match=r"Did you mean '\./my-teacher'\?"):
            model_directory(given)
