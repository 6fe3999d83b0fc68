"""Every family of sequence classifiers: padding, pooled features, layers, and a way to disk and back."""

import pytest
import torch

from harness.errors import ModelError
from harness.models.build import build_model, encoder_layers, hidden_size, number_of_layers, run_model
from harness.models.families import ROWS_OF_EQUAL_LENGTH
from harness.models.tokenizing import load_tokenizer
from harness.study.schema import ModelSpec
from tests.harness.models.families import ALL, ENCODER_DECODERS, WITHOUT_A_STACK

TEXTS = ["a b c d e f g h i", "c a", "e f g", "h g f e d", "b b b b b b b", "i", "d c"]


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(ModelSpec(config=ALL["bert"]), TEXTS, tmp_path)


def made(kind, tokenizer, **changes):
    return build_model(ModelSpec(config=ALL[kind], **changes), 3, 1, len(tokenizer), tokenizer=tokenizer)


def inputs(tokenizer, texts=TEXTS, width=None):
    padding = {"padding": True} if width is None else {"padding": "max_length", "max_length": width}
    return dict(tokenizer(texts, return_tensors="pt", **padding))


def outputs(model, given):
    with torch.no_grad():
        return run_model(model.eval(), given, features=True, layers=True)


def same(found, expected, rows=slice(None)):
    scale = float(expected.logits.abs().max())
    torch.testing.assert_close(found.logits, expected.logits[rows], rtol=1e-4, atol=1e-5 * max(1.0, scale))
    torch.testing.assert_close(found.features, expected.features[rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.layers, expected.layers[:, rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["own", "mean"])
@pytest.mark.parametrize("kind", ALL)
def test_a_row_s_outputs_do_not_depend_on_its_padding(kind, pooling, tokenizer):
    if pooling == "mean" and kind in ("funnel", *ENCODER_DECODERS):
        with pytest.raises(ModelError, match="pooling: mean` is not there"):
            made(kind, tokenizer, pooling=pooling)
        return
    model = made(kind, tokenizer, pooling=pooling)
    whole = outputs(model, inputs(tokenizer))
    assert whole.features.shape == (len(TEXTS), hidden_size(model))
    assert whole.layers.shape == (number_of_layers(model), len(TEXTS), hidden_size(model))
    assert whole.logits.std(0).min() > 1e-4
    assert whole.features.std(0).max() > 1e-3
    assert whole.layers.std(1).amax(-1).min() > 1e-3  # no layer says the same of all rows
    for width in (12, 13, 17):
        same(outputs(model, inputs(tokenizer, width=width)), whole)
    for row, text in enumerate(TEXTS):
        same(outputs(model, inputs(tokenizer, [text])), whole, slice(row, row + 1))


@pytest.mark.parametrize("kind", ALL)
def test_features_are_what_the_classifier_reads(kind, tokenizer):
    """A classifier's logits have a gradient by its own row's feature, and by no other state of the base model."""
    model = made(kind, tokenizer, dropout=0.0)
    passes = []

    def note(_, __, output):
        output[0].retain_grad()
        passes.append(output[0])

    model.base_model.register_forward_hook(note)
    given = inputs(tokenizer, ["a b c", "d e f", "f"] if kind not in ROWS_OF_EQUAL_LENGTH else ["a b c", "d e f"])
    found = run_model(model, given, features=True)
    (states,) = passes
    if getattr(model.base_model, "pooler", None) is not None:  # it has read the states before
        assert torch.equal(found.features, states[:, 0])
        return
    found.logits.square().sum().backward()
    read = states.grad.abs().sum(-1) > 0
    assert read.sum(1).tolist() == [1] * len(read)
    torch.testing.assert_close(found.features, states[read])


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_loaded_it_is_the_same(kind, tokenizer, tmp_path):
    model = made(kind, tokenizer)
    model.save_pretrained(tmp_path / "saved")
    again = build_model(ModelSpec(model=str(tmp_path / "saved")), 3, 2, len(tokenizer), tokenizer=tokenizer)
    given = inputs(tokenizer)
    torch.testing.assert_close(outputs(again, given).logits, outputs(model, given).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in WITHOUT_A_STACK])
def test_layers_can_be_kept(kind, tokenizer, tmp_path):
    whole, cut = made(kind, tokenizer), made(kind, tokenizer, layers=[0])
    assert len(encoder_layers(whole)) == 2
    assert len(encoder_layers(cut)) == number_of_layers(cut) == 1
    given = inputs(tokenizer)
    found = outputs(cut, given)
    assert len(found.layers) == 1
    torch.testing.assert_close(outputs(whole, given).layers[0], found.layers[0]) if kind not in NORMED else None
    cut.save_pretrained(tmp_path / "cut")
    again = build_model(ModelSpec(model=str(tmp_path / "cut")), 3, 2, len(tokenizer), tokenizer=tokenizer)
    torch.testing.assert_close(outputs(again, given).logits, found.logits, rtol=1e-5, atol=1e-6)


NORMED = ("modernbert", "gpt2", "llama", "qwen2")
"""A norm follows the last layer."""


@pytest.mark.parametrize("kind", WITHOUT_A_STACK)
def test_layers_that_are_no_single_stack_cannot(kind, tokenizer):
    with pytest.raises(ModelError, match="has no single list of layers"):
        made(kind, tokenizer, layers=[0])


@pytest.mark.parametrize("kind", ALL)
def test_dropout_is_set_everywhere(kind, tokenizer):
    model = made(kind, tokenizer, dropout=0.0)
    given = inputs(tokenizer)
    assert torch.equal(run_model(model, given).logits, run_model(model, given).logits)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}
