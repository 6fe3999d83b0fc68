from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from strategies import resolve
from tests.strategies.contexts import make, make_context, make_setup, weigh

SETUP = make_setup()
AGGREGATORS = ["pcgrad", "mgda", "cagrad", "upgrad"]
entries = st.floats(-3, 3, width=32)


def gramian(ce: tuple[float, ...], kd: tuple[float, ...]) -> torch.Tensor:
    gradients = torch.tensor([ce, kd])
    return gradients @ gradients.T


def pair(name: str, matrix: torch.Tensor, **settings) -> tuple[float, float]:
    weights = weigh(make(name, SETUP, **settings), make_context(SETUP, gramian=matrix))
    assert all((w == w[0]).all() for w in weights.values())
    return float(weights["ce"][0]), float(weights["kd"][0])


def constant(ce: float, kd: float):
    return replace(make_context(SETUP), terms={"ce": torch.full((8,), ce), "kd": torch.full((8,), kd)})


class TestUncertainty:
    def test_starting_points(self):
        assert weigh(make("uncertainty", SETUP, form="kendall"), make_context(SETUP))["kd"][0] == pytest.approx(
            0.5 * math.exp(0.5)
        )
        assert weigh(make("uncertainty", SETUP), make_context(SETUP))["kd"][0] == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("form", "best"),
        # kendall: L e^-s / 2 = 1/2. revised: with v = sigma^2, -L / (2 v^2) + 1 / (1 + v) = 0
        [("kendall", lambda loss: 0.5 / loss), ("revised", lambda loss: 2 / (loss + math.sqrt(loss**2 + 8 * loss)))],
    )
    def test_converges_to_the_weight_that_minimises_its_objective(self, form, best):
        strategy = make("uncertainty", SETUP, form=form, learning_rate=0.05)
        for _ in range(400):
            weights = weigh(strategy, constant(2.0, 0.25))
        assert weights["ce"][0] == pytest.approx(best(2.0), rel=1e-2)
        assert weights["kd"][0] == pytest.approx(best(0.25), rel=1e-2)

    def test_a_vanishing_loss_does_not_take_over(self):
        strategy = make("uncertainty", SETUP, form="kendall", learning_rate=0.5, bound=2.0)
        for _ in range(100):
            weights = weigh(strategy, constant(1.0, 0.0))
        assert weights["kd"][0] == pytest.approx(0.5 * math.exp(2.0))


class TestDwa:
    def test_ones_for_two_epochs_then_the_formula(self):
        strategy = make("dwa", SETUP)
        context = make_context(SETUP)
        strategy.end_epoch(0, {"ce": 2.0, "kd": 4.0})
        assert strategy.weights(context) == {"ce": 1.0, "kd": 1.0}
        strategy.end_epoch(1, {"ce": 1.0, "kd": 4.0})
        expected = 2 / (1 + math.exp((1.0 - 0.5) / 2))
        assert strategy.weights(context)["ce"] == pytest.approx(expected)
        assert strategy.weights(context)["kd"] == pytest.approx(2 - expected)

    def test_only_the_last_two_epochs_count(self):
        strategy = make("dwa", SETUP)
        for epoch, kd in enumerate([9.0, 1.0, 1.0]):
            strategy.end_epoch(epoch, {"ce": 1.0, "kd": kd})
        assert strategy.weights(make_context(SETUP)) == pytest.approx({"ce": 1.0, "kd": 1.0})

    def test_rounding_of_a_vanished_loss_is_no_progress(self):
        strategy = make("dwa", SETUP)
        strategy.end_epoch(0, {"ce": 1.0, "kd": 1e-11})
        strategy.end_epoch(1, {"ce": 1.0, "kd": 1e-8})
        assert strategy.weights(make_context(SETUP)) == {"ce": 1.0, "kd": 1.0}


class TestGradNorm:
    def norms_after(self, steps: int, losses: tuple[float, float] = (1.0, 1.0), **settings) -> list[float]:
        strategy = make("gradnorm", SETUP, reference="first_step", **settings)
        matrix = torch.diag(torch.tensor([9.0, 1.0]))
        weigh(strategy, replace(constant(1.0, 1.0), term_gramian=lambda: matrix))
        for _ in range(steps):
            weights = weigh(strategy, replace(constant(*losses), term_gramian=lambda: matrix))
        return [float(weights["ce"][0]) * 3, float(weights["kd"][0]) * 1]

    def test_pulls_gradient_norms_together(self):
        start = self.norms_after(1)
        end = self.norms_after(300)
        assert start[0] / start[1] > 2.5
        assert end[0] == pytest.approx(end[1], rel=0.05)
        assert end[0] / 3 + end[1] == pytest.approx(2.0)

    def test_a_term_that_lags_gets_more_gradient(self):
        ce, kd = self.norms_after(500, losses=(0.5, 1.0), alpha=1.0)
        # relative inverse training rates 2/3 and 4/3: target norms 1 to 2
        assert kd / ce == pytest.approx(2.0, rel=0.1)

    @pytest.mark.parametrize("kd", [-2e-8, 0.0, 2e-8])
    def test_rounding_of_a_vanished_loss_is_no_progress(self, kd):
        def trained(kd: float) -> list[float]:
            strategy = make("gradnorm", SETUP)
            strategy.end_epoch(0, {"ce": 1.0, "kd": 1e-11})
            for _ in range(20):
                weigh(strategy, replace(constant(1.0, kd), term_gramian=lambda: torch.diag(torch.tensor([9.0, 1.0]))))
            return strategy.logits.tolist()

        assert trained(kd) == trained(1e-11)

    def test_plain_sum_and_no_gradient_pass_in_the_first_epoch(self):
        strategy = make("gradnorm", SETUP)
        assert set(weigh(strategy, make_context(SETUP))["ce"].tolist()) == {1.0}  # no Gramian to call
        strategy.end_epoch(0, {"ce": 1.0, "kd": 1.0})
        weigh(strategy, make_context(SETUP, step=5, gramian=torch.diag(torch.tensor([9.0, 1.0]))))
        assert strategy.logits[0] < strategy.logits[1]


class TestAggregators:
    @pytest.mark.parametrize("name", AGGREGATORS)
    @pytest.mark.parametrize("scale", [1e-8, 1e-5, 1e4])
    def test_the_length_of_the_gradients_has_no_say(self, name, scale):
        matrix = torch.tensor([[1.0, -0.5], [-0.5, 2.0]])
        assert pair(name, scale * matrix) == pytest.approx(pair(name, matrix), abs=1e-3)

    def test_agreeing_gradients_are_summed_or_averaged(self):
        matrix = gramian((1.0, 0.0), (1.0, 1.0))
        assert pair("pcgrad", matrix) == (1.0, 1.0)
        assert pair("upgrad", matrix) == pytest.approx((0.5, 0.5), abs=1e-3)
        assert pair("cagrad", matrix, radius=0.0) == pytest.approx((0.5, 0.5), abs=1e-3)

    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    def test_mgda_is_the_closed_form_for_two_terms(self, scale):
        ce, kd = torch.tensor([1.0, 2.0, 0.0]) * scale, torch.tensor([-1.0, 1.0, 0.5]) * scale
        expected = float(((kd - ce) @ kd / (ce - kd).square().sum()).clamp(0, 1))
        assert pair("mgda", torch.stack([ce, kd]) @ torch.stack([ce, kd]).T) == pytest.approx(
            (expected, 1 - expected), abs=1e-4
        )

    def test_mgda_leaves_the_larger_gradient_out_unless_scaled(self):
        matrix = gramian((10.0, 0.0), (1.0, 0.5))
        assert pair("mgda", matrix) == pytest.approx((0.0, 1.0))
        assert pair("mgda", matrix, scale_by="norm") == pytest.approx((0.5, 0.5), abs=1e-3)

    def test_pcgrad_by_hand(self):
        """g_ce = (1, 0), g_kd = (-1, 1): projections (1/2, 1/2) and (0, 1), their sum 3/2 g_ce + 2 g_kd... in g's basis."""
        ce, kd = pair("pcgrad", gramian((1.0, 0.0), (-1.0, 1.0)))
        update = ce * torch.tensor([1.0, 0.0]) + kd * torch.tensor([-1.0, 1.0])
        torch.testing.assert_close(update, torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 1.0]))

    @given(st.tuples(entries, entries, entries), st.tuples(entries, entries, entries))
    def test_upgrad_of_two_terms_is_half_of_pcgrad(self, ce, kd):
        """With two gradients both project each onto the other's dual cone; one takes the mean, the other the sum."""
        gradients = torch.tensor([ce, kd])
        assume((gradients.norm(dim=1) > 0.1).all())
        assume(abs(float(torch.cosine_similarity(gradients[0], gradients[1], dim=0))) < 0.98)
        matrix = gradients @ gradients.T
        found, expected = (torch.tensor(pair(name, matrix)) @ gradients for name in ("upgrad", "pcgrad"))
        torch.testing.assert_close(found, expected / 2, atol=1e-2, rtol=1e-2)

    @pytest.mark.parametrize("radius", [0.3, 0.5])
    def test_cagrad_solves_its_own_problem(self, radius):
        """By search over the circle |d - g0| = radius |g0|, where the best d = argmax min_m <d, g_m> lies."""
        gradients = torch.tensor([[2.0, 0.5], [-0.5, 1.0]])
        mean = gradients.mean(0)
        angles = torch.linspace(0, 2 * math.pi, 20_001)
        circle = mean + radius * mean.norm() * torch.stack([angles.cos(), angles.sin()], -1)
        best = circle[(circle @ gradients.T).min(-1).values.argmax()]
        found = torch.tensor(pair("cagrad", gradients @ gradients.T, radius=radius)) @ gradients
        torch.testing.assert_close(found, best, atol=5e-3, rtol=0)

    @given(st.tuples(entries, entries, entries), st.tuples(entries, entries, entries), st.sampled_from(AGGREGATORS))
    def test_no_aggregate_harms_a_term(self, ce, kd, name):
        """What all four promise for two terms: <weighted gradient, each gradient> >= 0."""
        gradients = torch.tensor([ce, kd])
        assume((gradients.norm(dim=1) > 0.1).all())
        assume(abs(float(torch.cosine_similarity(gradients[0], gradients[1], dim=0))) < 0.98)
        if name == "cagrad":  # within half the average's norm of the average, a strong conflict can remain
            assume(float(gradients[0] @ gradients[1]) > 0)
        weights = torch.tensor(pair(name, gradients @ gradients.T))
        assert (weights >= -1e-5).all()
        harm = gradients @ (weights @ gradients)
        assert (harm >= -2e-2 * gradients.square().sum()).all(), harm

    @pytest.mark.parametrize("name", AGGREGATORS)
    def test_torchs_own_generator_is_left_alone(self, name):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        pair(name, gramian((1.0, 0.0), (-1.0, 1.0)))
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("name", AGGREGATORS)
    def test_zero_gradients_give_equal_weights(self, name):
        assert pair(name, torch.zeros(2, 2)) == (0.5, 0.5)

    @pytest.mark.parametrize("name", AGGREGATORS)
    def test_without_the_library_the_study_is_refused(self, name, monkeypatch):
        monkeypatch.setattr("strategies.parts.gradient_aggregator.find_spec", lambda package: None)
        registered = resolve(name)
        reason = registered.refuses(registered.settings(), 2)
        assert reason is not None
        assert ".[gradients]" in reason
        with pytest.raises(ValueError, match="not installed"):
            make(name, SETUP)
