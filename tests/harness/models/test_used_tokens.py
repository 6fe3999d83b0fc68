from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.models import used_tokens
from harness.models.build import build_model
from harness.models.used_tokens import UsedTokenEmbedding, embed_all_tokens, embed_used_tokens
from harness.ranks import Single
from harness.records import Seeds
from harness.study.schema import ModelSpec, Recipe
from harness.training.checkpoint import CheckpointError
from harness.training.loop import Training, steps_per_epoch
from strategies import resolve
from strategies.base import RoleView, Setup

VOCABULARY, CLASSES, BATCH, EPOCHS = 500, 2, 8, 2
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": {"model_type": "bert", **SMALL},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, **SMALL},
    "distilbert": {"model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}


def some_rows(rows: int, lowest: int, seed: int) -> Encoded:
    """Of 60 tokens from `lowest` on, in rows of 3 to 9."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 10, rows).astype(np.int32)
    return Encoded(
        ids=np.arange(rows),
        labels=draw.integers(0, CLASSES, rows),
        flipped=None,
        lengths=lengths,
        tokens=draw.integers(lowest, lowest + 60, lengths.sum()).astype(np.int32),
        segments=None,
        starts=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]),
        pad_token=1,
        special_tokens=(0, 1, 2),
    )


def taught(rows: Encoded, seed: int) -> LabelledRows:
    logits = np.random.default_rng(seed).normal(size=(1, len(rows.ids), CLASSES)).astype(np.float32)
    return LabelledRows(rows, logits)


def small_model(kind: str = "bert") -> Any:
    return build_model(ModelSpec(config=CONFIGS[kind]), CLASSES, 0, VOCABULARY, "eager")


def a_training(model: nn.Module, strategy: str = "rw_kd", settings: dict[str, Any] | None = None) -> Training:
    registered = resolve(strategy)
    chosen = registered.settings(settings or {})
    needs = registered.needs(chosen)
    fit, meta = taught(some_rows(40, 100, 1), 1), taught(some_rows(16, 140, 2), 2)
    views = [
        RoleView(torch.from_numpy(r.encoded.ids), torch.from_numpy(r.encoded.labels), torch.from_numpy(r.teacher_logits))
        for r in (fit, meta)
    ]
    setup = Setup(
        CLASSES, ("teacher",), EPOCHS, steps_per_epoch(40, BATCH), 2.0, views[0], views[1], 16, (16,), 5, torch.device("cpu")
    )
    recipe = Recipe(epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-2, weight_decay=0.1, precision="fp32")
    seeds = Seeds(student=1, order=2, dropout=3, strategy=4)
    select = some_rows(10, 180, 3)
    return Training(
        model, registered.create(chosen, setup), needs, fit, meta, select, recipe, seeds, ["accuracy"], "accuracy", Single(),
        temperature=2.0, meta_batch_size=BATCH,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "strategy", "settings"),
    [
        ("bert", "fixed_alpha", {}),
        ("roberta", "fixed_alpha", {}),
        ("distilbert", "fixed_alpha", {}),
        ("bert", "rw_kd", {"engine": "fd"}),
        ("roberta", "rw_kd", {"engine": "exact", "precondition": "adam"}),
        ("bert", "gradnorm", {}),
    ],
)
def test_the_training_is_that_of_the_whole_table(
    kind: str, strategy: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    for worthwhile in (used_tokens.WORTHWHILE, 0.0):
        monkeypatch.setattr(used_tokens, "WORTHWHILE", worthwhile)
        model = small_model(kind)
        training = a_training(model, strategy, settings)
        assert isinstance(model.get_input_embeddings(), UsedTokenEmbedding) == (worthwhile > 0)
        scores = [record.select for record in training.run().records]
        trained.append((model.state_dict(), scores))
    (found, scores), (expected, expected_scores) = trained
    assert scores == expected_scores
    assert list(found) == list(expected)
    start = small_model(kind).state_dict()
    for name, tensor in expected.items():
        # the gradient's norm is summed in another order, and Adam divides by the root of tiny squares
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=2e-5), name
    (table,) = (name for name in expected if name.endswith("word_embeddings.weight"))
    assert not torch.equal(found[table][400], start[table][400])  # no row has it, and weight decay reached it
    assert torch.allclose(found[table][400], expected[table][400], rtol=1e-5, atol=0)


def test_a_resumed_training_is_the_same(tmp_path: Path) -> None:
    def stop(record: Any, write: Any) -> None:
        write(tmp_path)
        raise KeyboardInterrupt

    whole = small_model()
    a_training(whole).run()
    with pytest.raises(KeyboardInterrupt):
        a_training(small_model()).run(stop)
    resumed = small_model()
    a_training(resumed).run(resume_from=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_a_checkpoint_of_another_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_training(small_model()).run(lambda _, write: write(tmp_path))
    monkeypatch.setattr(used_tokens, "WORTHWHILE", 0.0)
    with pytest.raises(CheckpointError, match="of another model"):
        a_training(small_model()).run(resume_from=tmp_path)


def test_a_token_that_no_row_has_is_an_error_and_not_another_token_s_row() -> None:
    model = small_model()
    embed_used_tokens(model, [some_rows(5, 100, 0)])
    with pytest.raises(IndexError):
        model(torch.tensor([[100, 400]]))
    embed_all_tokens(model)
    assert type(model.get_input_embeddings()) is nn.Embedding
    model(torch.tensor([[100, 400]]))


def test_tables_that_are_used_almost_whole_or_shared_are_left() -> None:
    model = small_model()
    before = model.get_input_embeddings()
    embed_used_tokens(model, [some_rows(400, lowest, lowest) for lowest in range(0, 440, 50)])
    assert model.get_input_embeddings() is before
    model.decoder = nn.Linear(16, VOCABULARY, bias=False)
    model.decoder.weight = before.weight
    embed_used_tokens(model, [some_rows(5, 100, 0)])
    assert model.get_input_embeddings() is before
    embed_used_tokens(nn.Linear(2, 2), [])  # has no table
