from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import Normalisation, Strategy, resolve
from tests.strategies.contexts import make, make_context, make_setup, weigh

SETUP = make_setup()
seeds = st.integers(0, 300)
SAMPLE_WISE = ["wsl", "mcd", "teacher_entropy", "focal"]


class PerTeacher(Strategy):
    """[teachers, batch] weights, a scalar one, and one that is constant over the batch."""

    name = "per_teacher"
    normalisation = Normalisation.FREE

    def weights(self, context):
        confidence = context.teacher_logits.softmax(-1).max(-1).values
        return {"ce": torch.tensor(0.5), "kd_each": confidence, "kd": torch.tensor([2.0])}


@given(seeds, st.sampled_from(SAMPLE_WISE))
def test_shuffled_keeps_each_samples_weights_together(seed, name):
    context = make_context(SETUP, seed=seed)
    plain, mixed = weigh(make(name, SETUP), context), weigh(make(f"shuffled({name})", SETUP), context)
    pairs = [sorted(zip(w["ce"].tolist(), w["kd"].tolist(), strict=True)) for w in (plain, mixed)]
    assert pairs[0] == pairs[1]


def test_shuffled_really_shuffles_and_draws_from_the_context():
    context = make_context(SETUP, batch=32)
    plain = weigh(make("wsl", SETUP), context)["kd"]
    one = weigh(make("shuffled(wsl)", SETUP), context)["kd"]
    two = weigh(make("shuffled(wsl)", SETUP), context)["kd"]
    assert not torch.equal(plain, one)
    assert not torch.equal(one, two)
    context.generator.manual_seed(5)
    three = weigh(make("shuffled(wsl)", SETUP), context)["kd"]
    context.generator.manual_seed(5)
    torch.testing.assert_close(three, weigh(make("shuffled(wsl)", SETUP), context)["kd"], rtol=0, atol=0)


@given(seeds, st.sampled_from(SAMPLE_WISE))
def test_batch_mean_keeps_the_mean_and_nothing_else(seed, name):
    context = make_context(SETUP, seed=seed)
    plain, mean = weigh(make(name, SETUP), context), weigh(make(f"batch_mean({name})", SETUP), context)
    for term in plain:
        torch.testing.assert_close(mean[term], plain[term].mean().expand(8))


@given(seeds, st.sampled_from(["wsl", "mcd", "equal_sum", "focal"]))
def test_mean_one_rescales_to_a_mean_sum_of_one(seed, name):
    context = make_context(SETUP, seed=seed)
    plain, scaled = weigh(make(name, SETUP), context), weigh(make(f"mean_one({name})", SETUP), context)
    total = scaled["ce"] + scaled["kd"]
    assert float(total.mean()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(scaled["kd"] * plain["ce"], scaled["ce"] * plain["kd"])


def test_mean_one_of_a_convex_strategy_changes_nothing():
    context = make_context(SETUP)
    plain, scaled = weigh(make("ada_alpha", SETUP), context), weigh(make("mean_one(ada_alpha)", SETUP), context)
    torch.testing.assert_close(plain, scaled)


def test_mean_one_leaves_a_batch_without_any_weight():
    context = make_context(SETUP, influence={n: -torch.ones(8) for n in ("ce", "kd")})
    assert float(weigh(make("mean_one(l2rw)", SETUP), context)["ce"].sum()) == 0.0


@pytest.mark.parametrize("wrapper", ["shuffled", "batch_mean", "mean_one"])
def test_weights_per_teacher_and_scalars_are_understood(wrapper):
    setup = make_setup(teachers=2)
    context = make_context(setup, terms=("ce", "kd_each", "kd"))
    inner = PerTeacher(PerTeacher.Settings(), setup)
    plain = weigh(inner, context)
    found = weigh(resolve(f"{wrapper}(wsl)").wrappers[0](inner.settings, setup, inner), context)
    if wrapper == "shuffled":
        torch.testing.assert_close(found["kd_each"].sum(0).sort().values, plain["kd_each"].sum(0).sort().values)
        torch.testing.assert_close(found["ce"], plain["ce"])
    elif wrapper == "batch_mean":
        torch.testing.assert_close(found["kd_each"], plain["kd_each"].mean(-1, keepdim=True).expand(2, 8))
    else:
        total = found["ce"] + found["kd"] + found["kd_each"].sum(0)
        assert float(total.mean()) == pytest.approx(1.0)


def promise(name: str) -> Normalisation:
    return resolve(name).normalisation(resolve(name).settings())


def test_what_wrapping_changes_is_declared():
    assert resolve("wsl").sample_wise
    assert resolve("shuffled(wsl)").sample_wise
    assert not resolve("batch_mean(wsl)").sample_wise
    assert not resolve("shuffled(batch_mean(wsl))").sample_wise
    assert promise("shuffled(wsl)") is Normalisation.ADDITIVE
    assert promise("mean_one(wsl)") is Normalisation.BATCH
    assert promise("mean_one(free_alpha)") is Normalisation.FREE


def test_a_wrapper_passes_state_and_hooks_through():
    one, two = make("shuffled(dwa)", SETUP), make("shuffled(dwa)", SETUP)
    one.end_epoch(0, {"ce": 1.0, "kd": 2.0})
    one.end_epoch(1, {"ce": 1.0, "kd": 1.0})
    two.load_state_dict(one.state_dict())
    assert weigh(two, make_context(SETUP))["ce"][0] != 1.0
    ctkd = make("batch_mean(ctkd)", SETUP)
    assert float(ctkd.shape_terms(make_context(SETUP)).temperature) > 10


def test_fit_only_weighs_as_the_strategy_and_declares_that_it_does_without_the_meta_rows():
    found = resolve("fit_only(shuffled(wsl))")
    assert found.needs(found.settings()).fit_only
    assert not resolve("shuffled(wsl)").needs(found.settings()).fit_only
    context = make_context(SETUP)
    plain, alone = weigh(make("wsl", SETUP), context), weigh(make("fit_only(wsl)", SETUP), context)
    assert all(torch.equal(plain[term], alone[term]) for term in plain)
