"""A pass that is captured for a few shapes trains as one that is not. What captures is a stand-in here, but on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import harness.models.graphed_pass as graphed_pass
from harness.data.batch import Batch
from harness.models import run
from harness.models.build import build_model, run_model
from harness.models.graphed_pass import WIDTH_STEP, Capture, GraphedPass, Pass, padded
from harness.models.student_pass import StudentPass
from harness.ranks import Single
from harness.records import TrialSpec
from harness.study.schema import ModelSpec
from harness.training.loop import Training
from harness.training.trial import make_training, train_trial
from tests.harness.tiny import STUDENT, default_specs, tiny_study

CPU = torch.device("cpu")


def spec_of(tmp_path: Path, **training: object) -> TrialSpec:
    study = tiny_study(strategies=["wsl"])
    config = {**STUDENT, "num_hidden_layers": 2}
    student = study.models.student.model_copy(update={"config": config, "dropout": 0.0})
    study = study.model_copy(update={"models": study.models.model_copy(update={"student": student})})
    (spec,) = default_specs(study, tmp_path)
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})


def trained(spec: TrialSpec, cache: Path, capture: Capture | None = None) -> Training:
    training = make_training(spec, cache, Single(), CPU).training
    training.model.double()
    if capture is not None:
        training.weighting.student.run = training.graphed_pass = GraphedPass(capture)
    training.run()
    return training


def expect_equal(found: Training, expected: Training) -> None:
    for name, value in expected.model.state_dict().items():
        # Adam's first steps divide a gradient by itself: one that is rounding alone (a key's bias) moves at full size
        if not name.endswith("key.bias"):
            torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-7, atol=1e-8, msg=name)


def on_buffers(captured: list[tuple[int, ...]]) -> Capture:
    """As a CUDA graph does, always computes what lies in the tensors that it was captured with."""

    def capture(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Pass:
        captured.append(tuple(inputs[0].shape))
        buffers = [given.clone() for given in inputs]
        held: list[torch.Tensor] = []

        def replay(*given: torch.Tensor) -> torch.Tensor:
            for buffer, new in zip(buffers, given, strict=True):
                buffer.copy_(new)
            logits: torch.Tensor = model(*buffers)
            for earlier in held:
                earlier.data.fill_(torch.nan)
            held[:] = [logits]
            return logits

        return replay

    return capture


def test_each_shape_is_captured_once_and_students_are_those_of_other_passes(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    captured: list[tuple[int, ...]] = []
    found = trained(spec, tmp_path, on_buffers(captured))
    expect_equal(found, trained(spec, tmp_path))
    assert len(set(captured)) == len(captured) == found.progress.cost.graphs
    assert 0 < len(captured) < found.total_steps
    assert all(width % WIDTH_STEP == 0 for _, width in captured)


@pytest.mark.parametrize(("length", "width"), [(5, 16), (16, 16), (17, 20), (20, 20)])
def test_batches_are_padded_as_far_as_the_model_has_positions(length: int, width: int) -> None:
    model = build_model(ModelSpec(config={**STUDENT, "max_position_embeddings": 20}), 2, 0, 500)
    given = {"input_ids": torch.full((2, length), 7), "attention_mask": torch.ones(2, length, dtype=torch.long)}
    wide = padded(model, given)
    assert {tensor.shape for tensor in wide.values()} == {(2, width)}
    assert wide["attention_mask"].sum() == 2 * length
    torch.testing.assert_close(run_model(model.eval(), wide).logits, run_model(model, given).logits)


def test_a_second_batch_of_a_shape_is_not_the_first(tmp_path: Path) -> None:
    """What the test above would not see, were every buffer kept as it was captured and each shape met once."""
    model = make_training(spec_of(tmp_path), tmp_path, Single(), CPU).training.model.train()
    run = GraphedPass(on_buffers([]))
    first, second = (
        {"input_ids": torch.full((2, 5), k), "attention_mask": torch.ones(2, 5, dtype=torch.int64)} for k in (1, 2)
    )
    kept, other = run(model, first).logits, run(model, second).logits
    assert not torch.equal(kept, other)
    assert torch.equal(kept, GraphedPass(on_buffers([]))(model, first).logits)  # also after the next replay


class RecordedGraph:
    """Stands in for `torch.cuda.CUDAGraph`: the operations of a capture, replayed on the tensors that they had then."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, before in self.operations:
            for old, new in zip(tree_leaves(before), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # no view, and not in place
                    old.copy_(new)


class Recording(TorchDispatchMode):
    """Stands in for `torch.cuda.graph`. As on a GPU, nothing can be asked of a number that is yet to be computed."""

    def __init__(self, graph: RecordedGraph, pool: Any) -> None:
        super().__init__()
        self._operations = graph.operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        found = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, found))
        return found


class _Stream:
    pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`torch.cuda.make_graphed_callables`, PyTorch's own, works on the CPU. What is set of streams is noted."""
    noted: dict[str, Any] = {"stream": "the training's"}
    stands_in: dict[str, Any] = {
        "CUDAGraph": RecordedGraph,
        "graph": Recording,
        "graph_pool_handle": object,
        "synchronize": lambda *_: None,
        "Stream": _Stream,
        "stream": lambda *_: contextlib.nullcontext(),
        "current_stream": lambda *_: noted["stream"],
        "set_stream": lambda stream: noted.update(stream=stream),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
    }
    for name, value in stands_in.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", object)

    def mask_of_four(_: Any, given: Any) -> Any:  # as on a GPU: elsewhere transformers asks whether anything is padded
        return {**given, "attention_mask": given["attention_mask"][:, None, None, :].bool()}

    monkeypatch.setattr(run, "_masked_on_the_device", mask_of_four)
    return noted


def batch_of(width: int, seed: int, rows: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 50, (rows, width), generator=generator)
    mask = torch.ones_like(tokens)
    mask[: rows // 2, width - 2 :] = 0
    teacher = torch.randn(1, rows, 2, generator=generator)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    return Batch(torch.arange(rows), labels, {"input_ids": tokens, "attention_mask": mask}, teacher, None, rows)


def student_pass(dropout: float) -> StudentPass:
    return StudentPass(build_model(ModelSpec(config={**STUDENT, "vocab_size": 50}, dropout=dropout), 2, 0, 50))


def passed(student: StudentPass, way: Any, batch: Batch) -> list[torch.Tensor]:
    """Logits, and the gradients that a loss leaves in the parameters. Generators start alike."""
    torch.manual_seed(3)
    student.zero_grad()
    student.run = way
    logits = student(batch, False, False).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
    return [logits.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in student.parameters())]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_replays_have_the_batch_the_masks_and_the_gradients_of_a_pass_without_graphs(
    recorded: dict[str, Any], micro_batches: int
) -> None:
    student, graphed = student_pass(dropout=0.3), GraphedPass()
    student.micro_batches = micro_batches
    for seed, width in enumerate((16, 32, 16, 16, 32)):
        batch = batch_of(width, seed)
        for one, other in zip(passed(student, graphed, batch), passed(student, run_model, batch), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(graphed.graphs) == (2 if micro_batches == 1 else 0)


def test_what_a_step_has_seen_is_not_overwritten_by_the_next(recorded: dict[str, Any]) -> None:
    student, graphed = student_pass(0.0), GraphedPass()
    first = passed(student, graphed, batch_of(16, 0))[0]
    before = first.clone()
    passed(student, graphed, batch_of(16, 1))
    assert len(graphed.graphs) == 1
    assert torch.equal(first, before)


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_capture_that_breaks_off_leaves_stream_and_generators(
    recorded: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`torch.cuda.graph` does not put its stream back where ending the capture raises."""

    class BreaksOff:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> None:
            recorded["stream"] = "the capture's"

        def __exit__(self, *_: object) -> None:
            raise error("the model's code wants a number")

    monkeypatch.setattr(torch.cuda, "graph", BreaksOff)
    student, graphed, batch = student_pass(dropout=0.3), GraphedPass(), batch_of(16, 0)
    for one, other in zip(passed(student, graphed, batch), passed(student, run_model, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert recorded["stream"] == "the training's"
    assert len(caplog.records) == 1


def test_a_probe_of_memory_captures_what_an_epoch_would(tmp_path: Path) -> None:
    captured: list[tuple[int, ...]] = []
    training = make_training(spec_of(tmp_path), tmp_path, Single(), CPU).training
    training.weighting.student.run = training.graphed_pass = GraphedPass(on_buffers(captured))
    training.train_on_longest(training.recipe.batch_size, 1)
    lengths = training.fit.encoded.lengths
    wanted = {-(-int(lengths[rows].max()) // WIDTH_STEP) * WIDTH_STEP for rows in training.batches.epoch(0)}
    assert {width for _, width in captured} == wanted


def test_where_memory_runs_out_graphs_are_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = make_training(spec_of(tmp_path), tmp_path, Single(), CPU).training
    graphed = training.graphed_pass = GraphedPass(on_buffers([]))
    training.weighting.student.run = graphed
    real, tries = training._gradients, []

    def short_of_memory(*given: Any) -> Any:
        tries.append(len(graphed.graphs))
        found = real(*given)
        if len(tries) == 2:
            raise RuntimeError("CUDA out of memory")
        return found

    training._gradients = short_of_memory  # type: ignore[method-assign]
    training.run()
    assert training.micro_batching.count == 2
    assert tries[1] > 0
    assert not any(tries[2:])
    assert training.progress.cost.graphs == graphed.captured > 0
    assert sum("graphs are given up" in record.message for record in caplog.records) == 1


def refused(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Pass:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("capture", "most", "said"),
    [
        (lambda: refused, 24, "so none is used: operation not permitted when stream is capturing"),
        (lambda: on_buffers([]), 1, "batches of more than 1 shapes: the others are passed without a graph"),
    ],
)
def test_what_cannot_be_captured_is_said_once_and_passed_without(
    capture: Callable[[], Capture],
    most: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graphed_pass, "AT_MOST", most)
    spec = spec_of(tmp_path, batch_size=12)
    found = trained(spec, tmp_path, capture())
    (record,) = caplog.records
    assert record.message.startswith("training.compile: graphs: ")
    assert record.message.endswith(said)
    expect_equal(found, trained(spec, tmp_path))


def test_on_a_cpu_it_is_without_effect_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(tmp_path)
    asked = spec.model_copy(update={"training": spec.training.model_copy(update={"compile": "graphs"})})
    assert asked.key != spec.key  # on a GPU other dropout masks are drawn
    found, plain = train_trial(asked, tmp_path), train_trial(spec, tmp_path)
    assert [record.message for record in caplog.records] == [
        "training.compile: graphs is without effect where a trial runs on a CPU"
    ]
    assert found.record.cost.graphs == 0
    assert [epoch.train_loss for epoch in found.record.epochs] == [epoch.train_loss for epoch in plain.record.epochs]


@pytest.mark.gpu
def test_on_a_gpu_graphs_train_the_same_student(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, precision="fp32")
    asked = spec.model_copy(update={"training": spec.training.model_copy(update={"compile": "graphs"})})
    device = torch.device("cuda")
    found, plain = (make_training(one, tmp_path, Single(), device).training for one in (asked, spec))
    for training in (found, plain):
        training.run()
    assert found.progress.cost.graphs > 0
    for one, other in zip(found.progress.records, plain.progress.records, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
