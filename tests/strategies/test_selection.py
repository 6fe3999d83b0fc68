"""Strategies that distil on a part of the batch: which samples, how much, at what temperature."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from strategies import resolve
from tests.strategies.contexts import loss_terms, make, make_context, make_setup, weigh

SETUP = make_setup(classes=6)


def entropies(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("batch", [1, 7, 20])
def test_se_kd_is_the_mean_over_the_most_uncertain(share, batch):
    """Top-k% by student entropy, k rounded up, and KD alone."""
    context = make_context(SETUP, batch=batch)
    weights = weigh(make("se_kd", SETUP, selected_share=share), context)
    chosen = entropies(context.student_logits).argsort(descending=True)[: max(1, math.ceil(share * batch))]
    loss = (weights["ce"] * context.terms["ce"] + weights["kd"] * context.terms["kd"]).mean()
    torch.testing.assert_close(loss, context.terms["kd"][chosen].mean())


def test_se_kd_lets_no_order_decide_between_equals():
    context = make_context(SETUP, student_logits=torch.tensor([[100.0, 0, 0, 0, 0, 0]] * 6 + [[1.0, 0, 0, 0, 0, 0]] * 2))
    kd = weigh(make("se_kd", SETUP, selected_share=0.1), context)["kd"]
    torch.testing.assert_close(kd, torch.tensor([0.0] * 6 + [4.0] * 2))
    every = weigh(make("se_kd", SETUP, selected_share=0.5), context)["kd"]
    torch.testing.assert_close(every, torch.ones(8))


@pytest.mark.parametrize(
    ("name", "settings", "rounding"),
    [("se_kd", {"selected_share": 0.4}, 3e-5), ("adakd", {"divergence": "kd"}, 3e-6), ("self_paced", {}, 1e-6)],
)
def test_rounding_does_not_decide_between_equals(name, settings, rounding):
    """One process and several, and other processors, round the same logits otherwise."""
    row = torch.tensor([0.3, 0.1, 0.0, 0.0, 0.0, 0.0])
    rows = torch.stack([row * (1 + k * rounding) for k in (0, 1, -1, 0.5, -0.5)])
    context = make_context(
        SETUP, batch=5, student_logits=rows, teacher_logits=torch.zeros(1, 5, 6), labels=torch.zeros(5).long()
    )
    strategy = make(name, SETUP, **settings)
    if name == "adakd":
        strategy.share = 0.4
    kd = weigh(strategy, replace(context, progress=0.0))["kd"]
    torch.testing.assert_close(kd, kd[:1].expand(5))


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_selectkd_accepts_what_the_teacher_has_among_its_first(top_k):
    context = make_context(SETUP, batch=30)
    weights = weigh(make("selectkd", SETUP, top_k=top_k), context)
    accepted = [
        int(student.argmax()) in teacher.topk(top_k).indices.tolist()
        for student, teacher in zip(context.student_logits, context.teacher_logits[0], strict=True)
    ]
    assert 0 < sum(accepted) < 30
    torch.testing.assert_close(weights["kd"], 0.5 * torch.tensor([1.0 if yes else 0.01 for yes in accepted]))
    torch.testing.assert_close(weights["ce"], torch.full((30,), 0.5))


def test_selectkd_that_would_accept_everything_is_refused():
    found = resolve("selectkd")
    settings = found.settings({"top_k": 3})
    assert "Set top_k below 3" in (found.refuses(settings, 3) or "")
    assert found.refuses(settings, 4) is None
    assert found.refuses(found.settings(), 2) is None


class TestAdaKd:
    def context(self, strategy, step=0, **changes):
        bare = make_context(SETUP, step=step, batch=12, **changes)
        terms = loss_terms(("ce", "reverse_kl"), bare, strategy.shape_terms(replace(bare, terms={})))
        return replace(bare, terms=terms)

    @pytest.mark.parametrize("share", [1.0, 0.6, 0.1])
    def test_loss_is_the_authors(self, share):
        """`calculate_distillation_weight` (rule hellinger, t_direction false) and `AdaKD` (loss rkd), after logits / T."""
        strategy = make("adakd", SETUP)
        strategy.share = share
        context = self.context(strategy)
        student, teacher = context.student_logits / 2, context.teacher_logits[0] / 2
        difference = student.softmax(-1).sqrt() - teacher.softmax(-1).sqrt()
        scores = difference.pow(2).sum(-1).sqrt() / math.sqrt(2)
        chosen = scores.topk(max(1, int(12 * share))).indices
        relative = scores[chosen] / scores[chosen].median()
        temperatures = torch.exp(-0.5 * torch.tanh(torch.log(relative)))
        q, p = ((logits[chosen] / temperatures[:, None]).softmax(-1) for logits in (student, teacher))
        expected = ((q * (q / p).log()).sum(-1) * temperatures**2).mean() * 2**2
        weights = weigh(strategy, context)
        loss = (weights["ce"] * context.terms["ce"] + weights["reverse_kl"] * context.terms["reverse_kl"]).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)

    def test_hard_samples_have_low_temperatures_within_bounds(self):
        strategy = make("adakd", SETUP, sensitivity=0.7)
        context = self.context(strategy)
        temperatures, hardness = strategy.shape_terms(context).temperature, strategy.hardness(context)
        assert (temperatures[hardness.argsort()].diff() <= 0).all()
        assert (2 * math.exp(-0.7) <= temperatures).all()
        assert (temperatures <= 2 * math.exp(0.7)).all()

    def test_a_student_that_is_the_teacher_has_the_study_s_temperature(self):
        strategy = make("adakd", SETUP)
        context = make_context(SETUP, batch=12)
        same = replace(context, student_logits=context.teacher_logits[0])
        torch.testing.assert_close(strategy.shape_terms(same).temperature, torch.full((12,), 2.0))

    def test_the_share_follows_the_loss_as_the_authors_does(self):
        """The loop of `distillation.py`, typed out, on losses that fall and rise again."""
        setup = make_setup(classes=6, epochs=10, steps_per_epoch=10)
        strategy = make("adakd", setup, average_span=0.1)
        share, average, reference, shares = 1.0, None, None, set()
        for step in range(100):
            scale = math.exp(-step / 20) if step < 60 else math.exp(-3) * 1.1 ** (step - 60)
            context = make_context(
                setup, step=step, terms_override={"ce": torch.ones(8), "reverse_kl": torch.full((8,), scale)}
            )
            strategy.after_step(context)
            average = scale if average is None else 0.9 * average + 0.1 * scale
            if reference is not None:
                delta, tolerance = reference - average, reference * 0.05
                if delta < -tolerance:
                    share, reference = min(share * 1.05, 1.0), average
                elif delta > tolerance:
                    share, reference = max(share * 0.95, 0.1), average
            elif context.progress > 0.05:
                reference = average
            assert strategy.share == pytest.approx(share)
            shares.add(share)
        assert min(shares) < 0.7
        assert share > min(shares)

    def test_it_goes_on_from_a_saved_state(self):
        strategy, again = make("adakd", SETUP), make("adakd", SETUP)
        for step in range(6):
            strategy.after_step(self.context(strategy, step))
        again.load_state_dict(strategy.state_dict())
        assert (again.share, again.average, again.reference) == (strategy.share, strategy.average, strategy.reference)
        assert strategy.reference is not None
