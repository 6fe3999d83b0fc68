"""Strategies that add a loss term, and those that weigh any list of terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from strategies import resolve
from tests.strategies.contexts import make, make_context, make_setup, weigh

SETUP = make_setup()
ADDED = {
    "universal_kd": "layer_kd",
    "msd": "part_kd",
    "self_kd": "noisy_kd",
    "relational_kd": "relational_kd",
    "word_importance": "word_kd",
}


def context(*added: str, **changes):
    plain = make_context(SETUP, **changes)
    further = {name: torch.rand(8, generator=torch.Generator().manual_seed(k)) for k, name in enumerate(added)}
    return replace(plain, terms={**plain.terms, **further})


@pytest.mark.parametrize("name", ADDED)
def test_each_term_gets_its_fixed_weight(name):
    strategy = make(name, SETUP, ce_weight=0.1, kd_weight=0.2, term_weight=0.3)
    weights = weigh(strategy, context(ADDED[name]))
    for term, expected in (("ce", 0.1), ("kd", 0.2), (ADDED[name], 0.3)):
        torch.testing.assert_close(weights[term], torch.full((8,), expected))


def test_settings_reach_the_terms():
    def options(name, **settings):
        found = resolve(name)
        return found.needs(found.settings(settings)).term_options[ADDED[name]]

    assert options("universal_kd", probe_l2=0.1) == {"probe_l2": 0.1}
    assert options("msd", saliency="population") == {"saliency": "population"}
    assert options("word_importance", scores="learned") == {"scores": "learned"}
    assert options("relational_kd", temperature=0.5) == {"temperature": 0.5, "teacher_sharpening": 0.25}
    assert options("self_kd", teacher="any", draws=2, word_drop=0.3) == {
        "dropout": 0.15,
        "draws": 2,
        "word_drop": 0.3,
        "temperature": 1.0,
        "same_architecture": False,
    }


def test_the_paper_s_two_stages():
    strategy = make("universal_kd", SETUP, stages="two", first_stage=0.5)
    early, late = (weigh(strategy, replace(context("layer_kd"), progress=p)) for p in (0.49, 0.5))
    assert [float(early[term][0]) for term in ("ce", "kd", "layer_kd")] == [0.0, 0.5, 0.5]
    assert [float(late[term][0]) for term in ("ce", "kd", "layer_kd")] == [0.5, 0.0, 0.0]


def test_learned_part_weights_start_equal_and_move_to_the_part_that_helps():
    terms = ("ce", "kd", "part_kd_each")

    def one(step):
        plain = make_context(SETUP, step=step, influence=lambda weights: influence)
        return replace(plain, terms={**plain.terms, "part_kd_each": torch.rand(2, 8)})

    influence = {"ce": torch.zeros(8), "kd": torch.zeros(8), "part_kd_each": torch.stack([torch.ones(8), -torch.ones(8)])}
    strategy = make("msd_learned", SETUP, meta_learning_rate=0.05, term_weight=0.8)
    assert resolve("msd_learned").needs(strategy.settings).terms == terms
    for step in range(20):
        weights = weigh(strategy, one(step))
        torch.testing.assert_close(weights["part_kd_each"].sum(0), torch.full((8,), 0.8))
    assert (weights["part_kd_each"][0] > 0.6).all()
    still = make("msd_learned", SETUP, interval=10**6)
    torch.testing.assert_close(weigh(still, one(1))["part_kd_each"], torch.full((2, 8), 0.25))


GENERIC = ["equal_sum", "random_weights", "dwa", "uncertainty", "gradnorm"]
AGGREGATORS = ["mgda", "pcgrad", "cagrad", "upgrad"]


@pytest.mark.parametrize("name", GENERIC + AGGREGATORS)
def test_any_list_of_terms_can_be_weighed(name):
    settings = {"extra_terms": ["relational_kd", "word_kd"]}
    found = resolve(name)
    if found.refuses(found.settings(), 3):
        pytest.skip("an optional package is not installed")
    assert found.needs(found.settings(settings)).terms == ("ce", "kd", "relational_kd", "word_kd")
    assert found.needs(found.settings()).terms == ("ce", "kd")
    jacobian = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    strategy = make(name, SETUP, **settings)
    for step in range(3):
        weights = weigh(strategy, context("relational_kd", "word_kd", step=step, gramian=jacobian @ jacobian.T))
        assert list(weights) == ["ce", "kd", "relational_kd", "word_kd"]
        assert all(weight.isfinite().all() for weight in weights.values())
    if name == "random_weights":
        torch.testing.assert_close(sum(weights.values()), torch.ones(8))
