"""The simulated device has CUDA's rules and the CPU's numbers, and the harness trains on it.

Each check is a process of its own: the device must be there before torch is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu.rank_audit import collectives

PROJECT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the simulated device is compiled with g++")

START = """
import copy, pytest, warnings
import tests.benchmarks.gpu.simulated_cuda as sim
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
warnings.filterwarnings("ignore")
simulation = sim.install()
simulation.__enter__()
COUNT = sim.COUNT
x = torch.randn(3, 4).to("cuda")
"""


def on_the_device(code: str) -> str:
    return _python("-c", START + code)


def _python(*arguments: str, timeout: float = 250) -> str:
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_counts_numbers_and_attention() -> None:
    on_the_device("""
for error, text, refused in [
    (RuntimeError, "same device", lambda: x + torch.ones(4)),
    (RuntimeError, "same device", lambda: torch.cat([x, torch.ones(1, 4)])),
    (TypeError, "cuda", lambda: x.numpy()),
    (RuntimeError, "generator", lambda: torch.rand(3, device="cuda", generator=torch.Generator())),
    (RuntimeError, "indices", lambda: torch.ones(4)[torch.tensor([1], device="cuda")]),
]:
    with pytest.raises(error, match=text):
        refused()
assert (x * 2.0 + 1).device == (x + torch.tensor(2.0)).device == sim.CUDA

# what makes the host wait
for kind, times, work in [
    ("item", 1, lambda: float(x.sum())),
    ("tolist", 1, lambda: x.tolist()),
    ("copy to host", 1, lambda: x.cpu().numpy()),
    ("copy from pageable memory", 1, lambda: torch.tensor([1.0, 2.0], device="cuda")),
    ("nothing", 0, lambda: torch.ones(4).pin_memory().to("cuda", non_blocking=True)),
    ("boolean index: aten::index", 1, lambda: x[x > 0]),
    ("nothing", 0, lambda: x.masked_fill_(x > 0, 0)),
    ("item", 1, lambda: bool((x > 0).any())),
    ("nothing", 0, lambda: torch.full((2,), 3.0, device="cuda")),
]:
    COUNT.clear()
    work()
    assert [(what, n) for (what, _), n in COUNT.syncs.items()] == ([(kind, times)] if times else []), (kind, COUNT.syncs)

# a copy, and the device's own generator
y = copy.deepcopy(x)
assert type(y) is sim.SimulatedTensor and torch.equal(y, x)
torch.manual_seed(3)
first, state = F.dropout(x + 1, 0.5), torch.cuda.get_rng_state()
second = F.dropout(x + 1, 0.5)
torch.cuda.set_rng_state(state)
assert torch.equal(F.dropout(x + 1, 0.5), second)
assert not torch.equal(first, second)

# numbers are the CPU's
def train(device):
    torch.default_generator.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    rows = torch.arange(12.0).reshape(3, 4).to(device) / 10
    for _ in range(5):
        loss = F.cross_entropy(model(rows), torch.tensor([0, 1, 0]).to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())
assert train("cpu") == train("cuda")

# attention's backends
queries = torch.randn(2, 4, 6, 8).to("cuda")
mask = (torch.rand(2, 1, 6, 6) > 0.2).to("cuda")

def attention(q):
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

def gradient():
    q = queries.clone().requires_grad_()
    return torch.autograd.grad(attention(q).square().sum(), q)[0]

COUNT.clear()
fused = gradient()
with sdpa_kernel(SDPBackend.MATH):
    torch.testing.assert_close(gradient().cpu(), fused.cpu(), atol=1e-5, rtol=1e-5)
assert COUNT.attention == {"efficient, float32": 1, "math, float32": 1}

along = (queries,), (torch.ones_like(queries),)
with pytest.raises(NotImplementedError, match="forward"):
    torch.func.jvp(attention, *along)
with sdpa_kernel(SDPBackend.MATH):
    assert torch.func.jvp(attention, *along)[1].device == sim.CUDA

with torch.autocast("cuda", dtype=torch.bfloat16):
    assert nn.Linear(8, 8).to("cuda")(queries).dtype == torch.bfloat16
    assert nn.LayerNorm(8).to("cuda")(queries).dtype == torch.float32
""")


@pytest.mark.slow
def test_strategies_train_and_resume_on_it(tmp_path: Path) -> None:
    chosen = ["strategies", "rw_kd", "--precisions", "auto", "--out", str(tmp_path)]
    said = _python("-m", "tests.benchmarks.gpu.device_audit", *chosen)
    assert said.count("resumed alike") == 1
    for entry in json.loads((tmp_path / "strategies.json").read_text("utf-8")):
        assert "H100" in entry["device"]
        assert entry["precision"] == "bf16"
        assert entry["attention"]
        assert not [backend for backend in entry["attention"] if backend.startswith("cudnn")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_every_strategy_trains_and_resumes_on_it(precision: str) -> None:
    said = _python("-m", "tests.benchmarks.gpu.device_audit", "strategies", "--precisions", precision, timeout=1700)
    assert "rw_kd" in said


@pytest.mark.slow
def test_look_aheads_repeat_the_step_s_dropout_masks_on_it() -> None:
    """Though they take attention apart, which the training step leaves whole elsewhere. `device_audit masks` tries all."""
    on_the_device("""
from tests.harness.look_ahead.looking_ahead import cosine_to_the_step
assert cosine_to_the_step(sim.CUDA, "fp32", "exact", 0.1) > 0.99999
assert cosine_to_the_step(sim.CUDA, "bf16", "jvp", 0.1) > 0.9995
""")


@pytest.mark.parametrize("chosen", [["--defaults"], pytest.param([], marks=pytest.mark.slow)])
def test_no_step_waits_for_it(chosen: list[str], tmp_path: Path) -> None:
    """Neither plain KD's nor a look-ahead's, whatever its engine and step."""
    _python("-m", "tests.benchmarks.gpu.device_audit", "steps", "--precisions", "fp32", *chosen, "--out", str(tmp_path))
    entries = json.loads((tmp_path / "steps.json").read_text("utf-8"))
    assert len(entries) >= 2
    assert {
        json.dumps([entry["strategy"], entry["settings"]]): entry["sync_places"] for entry in entries if entry["syncs"]
    } == {}


@pytest.mark.slow
def test_engines_agree_on_it() -> None:
    said = _python("-m", "tests.benchmarks.gpu.device_audit", "engines")
    cosines = [float(line.split("cosine ")[1].split()[0]) for line in said.splitlines()]
    assert len(cosines) == 6
    assert min(cosines[:3]) > 0.9999
    assert min(cosines) > 0.9


@pytest.mark.slow
def test_collectives_of_a_step() -> None:
    """At most four beside DDP's own two, which average gradients and say which parameters had one."""
    counts = collectives()
    assert len(counts) == 3
    assert max(count.get("all_gather", 0) + count.get("all_reduce", 0) for count in counts.values()) <= 4
