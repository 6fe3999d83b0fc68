"""The look-ahead on every family of students, most of which have eager attention alone."""

import pytest
import torch

from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import build_model, run_model
from harness.models.forward_trace import ForwardTrace
from harness.models.tokenizing import PAD_ID
from harness.study.schema import ModelSpec
from tests.harness.look_ahead.looking_ahead import TERMS, VOCABULARY, cosine, make_batch, some_weights
from tests.harness.models.families import ALL, WITHOUT_A_STACK, few_at_first

END = 3
CASES = [few_at_first(kind, layers) for kind in ALL for layers in (None, 1) if layers is None or kind not in WITHOUT_A_STACK]


def student(kind):
    tokens = {"pad_token_id": PAD_ID, "eos_token_id": END, "decoder_start_token_id": PAD_ID} if kind in ("bart", "t5") else {}
    return build_model(ModelSpec(config={"pad_token_id": PAD_ID, **ALL[kind], **tokens}), 2, 3, VOCABULARY)


def batch_of(rows, seed):
    batch = make_batch(2, rows, seed)
    tokens, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    tokens *= mask
    tokens[torch.arange(rows), mask.sum(1) - 1] = END
    return batch


@pytest.mark.parametrize(("kind", "layers"), CASES)
def test_engines_agree_on_the_step_s_own_dropout_masks(kind, layers):
    model, batch, meta = student(kind).train(), batch_of(12, 1), batch_of(8, 2)
    torch.manual_seed(7)
    trace = ForwardTrace(model, layers)
    with trace.record():
        terms = TERMS(run_model(model, batch.inputs), batch)
    with trace.modes(), trace.repeat(), torch.no_grad():
        again = TERMS(run_model(model, batch.inputs), batch)
    assert all(torch.allclose(again[name], terms[name], rtol=1e-5, atol=1e-6) for name in terms)
    exact, jvp, fd = (
        LookAhead(model, TERMS, engine, layers=layers).influence(batch, meta, 0.1, some_weights(12), trace=trace)
        for engine in ("exact", "jvp", "fd")
    )
    assert exact["ce"].abs().max() > 1e-4
    assert cosine(exact, jvp) > 0.9999
    assert cosine(exact, fd) > 0.999
