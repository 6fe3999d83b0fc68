"""The look-ahead's users beside RW-KD, against literal double backward passes on a small student."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from harness.look_ahead.adam import AdamWStep
from harness.loss_terms.losses import kd
from strategies import TermShape, resolve
from strategies.meta_learned.tgeo import class_means
from strategies.parts.meta_network import meta_objective
from strategies.parts.mixture import mixture
from tests.strategies.contexts import loss_terms, make, make_context, make_setup, random_influence, steps, weigh

SETUP = make_setup()


class SmallStudent:
    """A two-layer student on random inputs, with the look-ahead written out."""

    def __init__(self, context, seed=0, step_size=0.1, names=("ce", "kd")):
        self.names = names
        generator = torch.Generator().manual_seed(seed)
        batch, classes = context.student_logits.shape
        self.inputs = torch.randn(batch, 5, generator=generator)
        self.meta_inputs = torch.randn(6, 5, generator=generator)
        self.meta_labels = torch.randint(classes, (6,), generator=generator)
        self.parameters = [
            torch.randn(5, 4, generator=generator).requires_grad_(),
            torch.randn(4, classes, generator=generator),
        ]
        self.parameters[1].requires_grad_()
        self.step_size = step_size
        self.context = replace(context, student_logits=self.logits(self.inputs, self.parameters).detach())

    @staticmethod
    def logits(inputs, parameters):
        return (inputs @ parameters[0]).tanh() @ parameters[1]

    def terms(self):
        context = replace(self.context, student_logits=self.logits(self.inputs, self.parameters))
        found = loss_terms(tuple(n for n in self.names if n != "part_kd_each"), context, TermShape(2.0))
        if "part_kd_each" in self.names:  # two parts: each keeps some of the inputs
            parts = [self.logits(self.inputs * (torch.arange(5) % 2 == k), self.parameters) for k in range(2)]
            found["part_kd_each"] = torch.stack([kd(part, context.teacher_logits[0], 2.0) for part in parts])
        return {name: found[name] for name in self.names}

    def meta_loss(self, parameters):
        return F.cross_entropy(self.logits(self.meta_inputs, parameters), self.meta_labels)

    def fast(self, weights, create_graph=False):
        loss = sum((weights[name] * term).sum() / len(self.inputs) for name, term in self.terms().items())
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=create_graph)
        return [p - self.step_size * g for p, g in zip(self.parameters, gradients, strict=True)]

    def look_ahead(self, weights=None):
        at = self.parameters if weights is None else [p.detach().requires_grad_() for p in self.fast(weights)]
        direction = torch.autograd.grad(self.meta_loss(at), at)
        return {
            name: torch.stack(
                [
                    sum(
                        (g * d).sum()
                        for g, d in zip(torch.autograd.grad(v, self.parameters, retain_graph=True), direction, strict=True)
                    )
                    for v in values.flatten()
                ]
            ).view(values.shape)
            for name, values in self.terms().items()
        }

    def full_context(self):
        terms = {name: term.detach() for name, term in self.terms().items()}
        return replace(self.context, terms=terms, look_ahead=self.look_ahead)


@pytest.mark.parametrize("name", ["rw_kd", "meta_weight_net", "tgeo", "msd_learned"])
def test_the_networks_gradient_equals_the_double_backward(name):
    strategy = make(name, SETUP)
    names = resolve(name).needs(strategy.settings).terms
    student = SmallStudent(make_context(SETUP, terms=tuple(n for n in names if n != "part_kd_each")), names=names)
    context = student.full_context()
    network = strategy.meta_learner.network
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():  # away from the start, where hidden layers have no gradient
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)

    captured = {}

    def update(weigh_again, look_ahead, step_scale=1.0):
        weights = weigh_again()
        influence = look_ahead({n: w.detach() for n, w in weights.items()})
        ours = torch.autograd.grad(meta_objective(influence, weights), list(network.parameters()))
        fast = student.fast(weigh_again(), create_graph=True)
        literal = torch.autograd.grad(student.meta_loss(fast), list(network.parameters()))
        captured.update(ours=ours, literal=literal)

    strategy.meta_learner.update = update
    strategy.weights(context)
    for ours, literal in zip(captured["ours"], captured["literal"], strict=True):
        torch.testing.assert_close(student.step_size * ours, literal, rtol=1e-3, atol=1e-6)


def test_per_sample_rw_kd_equals_the_derivative_at_zero_weights():
    student = SmallStudent(make_context(SETUP))
    zero = {name: torch.zeros(8, requires_grad=True) for name in ("ce", "kd")}
    literal = torch.autograd.grad(student.meta_loss(student.fast(zero, create_graph=True)), list(zero.values()))
    ce, kd = (-8 / student.step_size * gradient for gradient in literal)
    largest = max(ce.max(), kd.max())
    ce, kd = ce.clamp_min(1e-6 * largest), kd.clamp_min(1e-6 * largest)
    found = weigh(make("rw_kd", SETUP, reading="per_sample"), student.full_context())["kd"]
    torch.testing.assert_close(found, kd / (ce + kd), rtol=1e-3, atol=1e-4)


def test_one_step_of_the_network_lowers_the_meta_loss_after_the_students_step():
    """End to end: weights that the update moved make the student's own step better on the meta rows."""
    strategy = make("rw_kd", SETUP, meta_learning_rate=0.05)
    student = SmallStudent(make_context(SETUP), step_size=0.5)
    even = {name: torch.full((8,), 0.5) for name in ("ce", "kd")}
    before = student.meta_loss(student.fast(even))
    for _ in range(20):
        weights = weigh(strategy, student.full_context())
    assert student.meta_loss(student.fast(weights)) < before - 1e-3


class TestL2rw:
    def test_weights_are_the_positive_influences_over_their_mean(self):
        influence = {"ce": torch.tensor([1.0, -4.0, 0.0, 3.0] * 2), "kd": torch.tensor([1.0, 2.0, 0.0, 1.0] * 2)}
        weights = weigh(make("l2rw", SETUP), make_context(SETUP, influence=influence))
        expected = torch.tensor([1.0, 0.0, 0.0, 2.0] * 2) / 0.75
        torch.testing.assert_close(weights["ce"] + weights["kd"], expected)
        torch.testing.assert_close(weights["ce"], weights["kd"])

    def test_nothing_helps_nothing_counts(self):
        weights = weigh(make("l2rw", SETUP), make_context(SETUP, influence={n: -torch.ones(8) for n in ("ce", "kd")}))
        assert float(weights["ce"].sum() + weights["kd"].sum()) == 0.0

    @given(st.integers(0, 100), st.floats(0.0, 1.0), st.floats(1e-6, 1e6))
    def test_mean_one_and_no_dependence_on_scale(self, seed, kd_weight, scale):
        influence = random_influence(seed)
        scaled = {name: scale * a for name, a in influence.items()}
        strategy = make("l2rw", SETUP, kd_weight=kd_weight)
        one, two = (weigh(strategy, make_context(SETUP, influence=a)) for a in (influence, scaled))
        torch.testing.assert_close(one["ce"], two["ce"], rtol=1e-3, atol=1e-5)
        if (mixture(influence, kd_weight) > 0).any():
            assert float((one["ce"] + one["kd"]).mean()) == pytest.approx(1.0, abs=1e-4)


class TestMetaWeightNet:
    def test_starts_with_equal_weights_of_mean_one(self):
        strategy = make("meta_weight_net", SETUP, interval=2, kd_weight=0.25)
        weights = weigh(strategy, make_context(SETUP, step=1))
        torch.testing.assert_close(weights["ce"], torch.full((8,), 0.75))
        torch.testing.assert_close(weights["kd"], torch.full((8,), 0.25))

    def test_learns_to_drop_samples_with_a_large_loss(self):
        strategy = make("meta_weight_net", SETUP, meta_learning_rate=1e-2)
        for context in steps(SETUP, 40):
            loss = mixture(context.terms, 0.5)
            harm = {name: loss.mean() - loss for name in ("ce", "kd")}
            weights = weigh(strategy, replace(context, look_ahead=lambda w=None, harm=harm: harm))["ce"]
        assert weights[loss.argmax()] < 0.5 * weights[loss.argmin()]
        assert 2 * weights.mean() == pytest.approx(1.0, abs=1e-5)

    def test_is_the_authors_network_and_optimiser(self):
        """VNet(1, 100, 1) with Adam(1e-3, weight_decay=1e-4); weights over the batch's sum, typed out after some updates."""
        strategy = make("meta_weight_net", SETUP)
        (group,) = strategy.meta_learner.optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-4)
        for context in steps(SETUP, 5, influence=random_influence(3)):
            weights = weigh(strategy, context)
        first, _, last = strategy.meta_learner.network
        loss = ((context.terms["ce"] + context.terms["kd"]) / 2).reshape(-1, 1)
        v = torch.sigmoid(F.relu(loss @ first.weight.T + first.bias) @ last.weight.T + last.bias).squeeze(1).detach()
        torch.testing.assert_close(2 * weights["ce"], 8 * v / v.sum())
        assert first.weight.shape == (100, 1)
        assert v.std() > 0


class TestTgeo:
    def test_class_means(self):
        fit = SETUP.fit
        means = class_means(fit, 3)
        torch.testing.assert_close(means[1], fit.teacher_logits[0][fit.labels == 1].softmax(-1).mean(0))
        torch.testing.assert_close(class_means(replace(fit, labels=fit.labels * 0), 3)[2], torch.full((3,), 1 / 3))

    def test_geometry_of_a_student_that_equals_its_teacher(self):
        strategy = make("tgeo", SETUP)
        context = make_context(SETUP)
        inputs = strategy.inputs(replace(context, student_logits=context.teacher_logits[0])).reshape(8, 9, 3)
        torch.testing.assert_close(inputs[:, 0], inputs[:, 1])
        torch.testing.assert_close(inputs[:, 6], torch.zeros(8, 3))
        torch.testing.assert_close(inputs[:, 5], inputs[:, 7])

    def test_inputs_are_the_releases_state(self):
        """Option 3 of the release's `state_design`, typed out: the four points, then five squared differences."""
        context = make_context(SETUP)
        student, teacher = context.student_logits.softmax(-1), context.teacher_logits[0].softmax(-1)
        truth = torch.eye(3)[context.labels]
        average = torch.stack([SETUP.fit.teacher_logits[0][SETUP.fit.labels == y].softmax(-1).mean(0) for y in context.labels])
        distances = [average - student, truth - student, teacher - student, teacher - truth, average - truth]
        expected = torch.cat([student, teacher, truth, average, *(d.square() for d in distances)], 1)
        torch.testing.assert_close(make("tgeo", SETUP).inputs(context), expected)

    def test_starts_at_one_half_and_follows_the_look_ahead(self):
        strategy = make("tgeo", SETUP, meta_learning_rate=1e-2)
        for context in steps(SETUP, 40, influence={"ce": torch.ones(8), "kd": torch.zeros(8)}):
            kd = weigh(strategy, context)["kd"]
            if context.step == 0:
                torch.testing.assert_close(kd, torch.full((8,), 0.5), atol=0.01, rtol=0)
        assert (kd < 0.45).all()


class TestFreeAlpha:
    def test_drifts_toward_the_smaller_loss(self):
        strategy = make("free_alpha", SETUP)
        context = make_context(SETUP)
        first = weigh(strategy, context)["kd"]
        second = weigh(strategy, context)["kd"]
        assert (first == 0.5).all()
        # Adam's first step has the learning rate as its length
        expected = 0.5 + 0.01 * torch.sign(context.terms["ce"] - context.terms["kd"])
        torch.testing.assert_close(second, expected, atol=1e-5, rtol=0)

    def test_is_unbounded_unless_asked(self):
        context = replace(make_context(SETUP), terms={"ce": torch.ones(8), "kd": torch.zeros(8)})
        free, bounded = (make("free_alpha", SETUP, learning_rate=0.3, bounded=b) for b in (False, True))
        for _ in range(5):
            pair = [weigh(strategy, context)["kd"] for strategy in (free, bounded)]
        assert (pair[0] > 1.0).all()
        assert (pair[1] == 1.0).all()

    def test_each_row_has_an_adam_of_its_own(self):
        """As if each row were a training set of its own, with torch's Adam over its weight; in batches of changing rows."""
        strategy = make("free_alpha", SETUP, learning_rate=0.05)
        alphas = {int(i): torch.tensor(0.5, requires_grad=True) for i in SETUP.fit.ids}
        optimizers = {i: torch.optim.Adam([alpha], lr=0.05) for i, alpha in alphas.items()}
        for context in steps(SETUP, 30):
            weights = weigh(strategy, context)
            for row, i in enumerate(context.ids.tolist()):
                torch.testing.assert_close(weights["kd"][row], alphas[i].detach(), atol=1e-5, rtol=0)
                ce, kd = context.terms["ce"][row], context.terms["kd"][row]
                optimizers[i].zero_grad()
                (((1 - alphas[i]) * ce + alphas[i] * kd) / 8).backward()
                optimizers[i].step()
        expected = torch.stack([alpha.detach() for alpha in alphas.values()])
        torch.testing.assert_close(strategy.alpha.values, expected, atol=1e-5, rtol=0)

    def test_rows_that_were_not_seen_stay(self):
        strategy = make("free_alpha", SETUP)
        weigh(strategy, make_context(SETUP, rows=torch.arange(8)))
        assert (weigh(strategy, make_context(SETUP, rows=torch.arange(8, 16)))["kd"] == 0.5).all()


class TestBikd:
    """Against the authors' programme, typed out: its double backward, its network, its Adam and its accumulation."""

    def test_is_the_authors_training_of_the_network(self):
        strategy = make("bikd", SETUP)
        student = SmallStudent(make_context(SETUP), step_size=0.3)
        theirs = torch.nn.Sequential(
            torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2)
        )
        theirs.load_state_dict(strategy.network.state_dict())
        optimizer = torch.optim.Adam(theirs.parameters(), 1e-3, weight_decay=1e-4)
        context = student.full_context()
        ce_teacher = F.cross_entropy(context.teacher_logits[0], context.labels, reduction="none")
        inputs = torch.stack([context.terms["ce"], ce_teacher], 1)
        for step in range(11):
            w_hard, w_soft = torch.sigmoid(theirs(inputs)).unbind(1)
            after = student.fast({"ce": w_hard, "kd": w_soft}, create_graph=True)
            # the student's rate is a factor that theirs has and the strategy leaves out
            (student.meta_loss(after) / student.step_size / 5).backward()
            if step % 5 == 4:
                optimizer.step()
                optimizer.zero_grad()
            expected = torch.sigmoid(theirs(inputs)).detach()
            weights = weigh(strategy, replace(context, step=step, progress=0.1))
            torch.testing.assert_close(torch.stack([weights["ce"], weights["kd"]], 1), expected, rtol=1e-4, atol=1e-5)
        moved = [
            float((p - q).detach().abs().max())
            for p, q in zip(theirs.parameters(), make("bikd", SETUP).network.parameters(), strict=True)
        ]
        assert min(moved) > 1e-3

    def test_its_learning_rate_falls_as_theirs(self):
        """adjust_learning_rate: times 0.8 at epochs 80 and 100 of 120."""
        strategy = make("bikd", SETUP, accumulate=1)
        for progress, factor in ((0.6, 1.0), (0.7, 0.8), (0.9, 0.64)):
            strategy.weights(replace(make_context(SETUP, influence=random_influence(0)), progress=progress))
            assert strategy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)

    def test_its_first_weights_are_near_one_half_and_free(self):
        weights = weigh(make("bikd", SETUP), make_context(SETUP, influence=random_influence(0)))
        assert ((weights["ce"] - 0.5).abs() < 0.2).all()
        assert (weights["ce"] + weights["kd"]).std() > 0


class TestLgtm:
    def test_weighs_kd_by_the_positive_influences(self):
        influence = {"ce": torch.full((8,), 9.0), "kd": torch.tensor([1.0, -4.0, 0.0, 3.0] * 2)}
        weights = weigh(make("lgtm", SETUP, kd_weight=0.8), make_context(SETUP, influence=influence))
        torch.testing.assert_close(weights["kd"], 0.8 * torch.tensor([1.0, 0.0, 0.0, 3.0] * 2))
        torch.testing.assert_close(weights["ce"], torch.full((8,), 0.2))

    def test_nothing_helps_all_count_the_same(self):
        influence = {name: -torch.ones(8) for name in ("ce", "kd")}
        assert (weigh(make("lgtm", SETUP), make_context(SETUP, influence=influence))["kd"] == 1.0).all()

    def test_is_the_authors_influence(self):
        """utils_glue.py of twinkle0331/LGTM, typed out: AdamW's step on KD alone, the meta gradient there, and a central
        difference of each sample's KD along it at the student before the step.
        """
        student = SmallStudent(make_context(SETUP))
        parameters, rate = student.parameters, 0.05
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        for _ in range(3):  # moments
            optimizer.zero_grad()
            student.terms()["kd"].mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        theta = [p.detach().clone() for p in parameters]
        state = optimizer.state
        unrolled = []
        for p, g in zip(parameters, torch.autograd.grad(student.terms()["kd"].mean(), parameters), strict=True):
            t = int(state[p]["step"]) + 1
            m = 0.9 * state[p]["exp_avg"] + 0.1 * g
            v = 0.999 * state[p]["exp_avg_sq"] + 0.001 * g * g
            step = rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            d = p.detach() * (1 - rate * 0.01) - step * m / (v.sqrt() + 1e-8 * math.sqrt(1 - 0.999**t))
            unrolled.append(d.requires_grad_())
        vector = torch.autograd.grad(student.meta_loss(unrolled), unrolled)
        radius = 1e-2 / torch.cat([v.flatten() for v in vector]).norm()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, at, v in zip(parameters, theta, vector, strict=True):
                    p.copy_(at + sign * radius * v)
            ends.append(student.terms()["kd"].detach())
        with torch.no_grad():
            for p, at in zip(parameters, theta, strict=True):
                p.copy_(at)
        influence = (ends[0] - ends[1]) / (2 * radius)
        step = AdamWStep(optimizer, parameters, None)

        def look_ahead(weights, ids=None):
            assert weights == {"ce": 0.0, "kd": 1.0}
            gradient = torch.autograd.grad(student.terms()["kd"].mean(), parameters)
            there = [p.requires_grad_() for p in step.taken([p.detach() for p in parameters], gradient, rate)[0]]
            direction = torch.autograd.grad(student.meta_loss(there), there)
            each = [torch.autograd.grad(one, parameters, retain_graph=True) for one in student.terms()["kd"]]
            found = torch.stack([sum((g * d).sum() for g, d in zip(one, direction, strict=True)) for one in each])
            return {"ce": found, "kd": found}

        helps = influence.clamp_min(0)
        assert helps.max() > 0
        found = weigh(make("lgtm", SETUP), replace(student.full_context(), look_ahead=look_ahead))["kd"]
        torch.testing.assert_close(found, 8 * helps / helps.sum(), rtol=1e-2, atol=1e-3)

    def test_asks_for_the_point_that_the_real_optimiser_reaches(self):
        registered = resolve("lgtm")
        assert registered.needs(registered.settings()).look_ahead_options == {"step": "adamw_point"}


@pytest.mark.parametrize("name", ["rw_kd", "l2rw", "meta_weight_net", "tgeo", "bikd", "lgtm", "mmkd", "msd_learned"])
@pytest.mark.parametrize("look_ahead", ["sgd", "adamw", "adamw_point"])
def test_every_look_ahead_can_be_that_of_the_optimiser_s_step(name, look_ahead):
    """All choices run in a small training (`harness.conformance.choices`); here: that the choice gets there."""
    registered = resolve(name)
    options = registered.needs(registered.settings({"look_ahead": look_ahead})).look_ahead_options
    assert options.get("step", "sgd") == look_ahead


@pytest.mark.parametrize(("name", "settings"), [("rw_kd", {"reading": "per_sample"}), ("l2rw", {"kd_weight": 0.3})])
def test_weights_from_scratch_are_asked_around_equal_ones_by_the_optimiser_s_step(name, settings):
    asked = []

    def influence(weights):
        asked.append(weights)
        return random_influence(len(asked))

    for look_ahead in ("sgd", "adamw"):
        weigh(make(name, SETUP, look_ahead=look_ahead, **settings), make_context(SETUP, influence=influence))
    assert asked[0] is None
    assert asked[1] == ({"ce": 0.7, "kd": 0.3} if name == "l2rw" else {"ce": 0.5, "kd": 0.5})
