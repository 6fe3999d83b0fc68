"""The learned weights among teachers: rl_kd, mtkd_rl and mmkd."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from strategies.base import Setup
from strategies.parts.several_teachers import TERMS
from strategies.several_teachers.mtkd_rl import rewards
from tests.strategies.contexts import make, make_context, make_setup, weigh

SETUP = make_setup(teachers=3, rows=60)


def context_of(setup: Setup, step: int, student: torch.Tensor | None = None, **options: Any):
    """`student`: [rows, classes], the student's logits on the training rows whenever they are replayed."""

    def replay(ids: torch.Tensor | None) -> torch.Tensor:
        if ids is None:
            return torch.nn.functional.one_hot(setup.meta.labels, setup.classes).float()
        rows = (ids - 100) // 3
        return torch.zeros(len(ids), setup.classes) if student is None else student[rows]

    return make_context(setup, terms=TERMS, step=step, seed=step, replay=replay, **options)


def run(strategy, setup: Setup, steps: range, **options: Any) -> list[dict[str, torch.Tensor]]:
    found = []
    for step in steps:
        context = context_of(setup, step, **options)
        found.append(weigh(strategy, context))
        strategy.after_step(context)
    return found


class TestRLKD:
    def test_warm_up_is_the_uniform_ensemble(self):
        for pretrain in (False, True):
            policy = make("rl_kd", SETUP, warmup_fraction=1.0, pretrain_policy=pretrain, update_every=2)
            for one, other in zip(
                run(policy, SETUP, range(20)), run(make("uniform_ensemble", SETUP), SETUP, range(20)), strict=True
            ):
                torch.testing.assert_close(one, other)
            assert bool(policy.slope.any()) == pretrain

    @pytest.mark.parametrize("mode", ["sample", "soft"])
    def test_one_teacher_that_is_always_selected_is_plain_distillation(self, mode):
        setup = make_setup(teachers=1)
        policy = make("rl_kd", setup, kd_weight=0.7, mode=mode, entropy_weight=0.0)
        with torch.no_grad():
            policy.intercept.fill_(80.0)
        for weights in run(policy, setup, range(20)):
            torch.testing.assert_close(weights, {"ce": torch.full((8,), 0.3), "kd_each": torch.full((1, 8), 0.7)})

    def test_selected_teachers_share_equally_and_nobody_leaves_the_label_alone(self):
        policy = make("rl_kd", SETUP, warmup_fraction=0.0, kd_weight=0.4)
        weights = run(policy, SETUP, range(9))
        shares = torch.cat([one["kd_each"] for one in weights], -1) / 0.4
        ce = torch.cat([one["ce"] for one in weights])
        count = (shares > 0).sum(0)
        assert set(count.tolist()) == {0, 1, 2, 3}
        torch.testing.assert_close(shares, (shares > 0) / count.clamp_min(1))
        torch.testing.assert_close(ce, torch.where(count == 0, 1.0, 0.6))
        # probabilities of 1/2 at the start: three standard errors of 9 * 8 draws
        assert abs(float((shares > 0).float().mean()) - 0.5) < 3 * 0.5 / np.sqrt(shares.numel())

    def test_the_most_probable_teacher_may_stand_in(self):
        policy = make("rl_kd", SETUP, warmup_fraction=0.0, empty="most_probable", shared_policy=False, update_every=99)
        with torch.no_grad():
            policy.intercept.copy_(torch.tensor([[-40.0], [-30.0], [-35.0]]))
        (weights,) = run(policy, SETUP, range(1))
        assert torch.equal(weights["kd_each"], torch.tensor([[0.0], [0.5], [0.0]]).expand(3, 8))

    @given(st.permutations([0, 1, 2]), st.integers(0, 50))
    @settings(max_examples=10)
    def test_permuting_teachers_permutes_soft_weights(self, order, seed):
        """With one policy for all teachers, whatever it has learnt."""
        found = []
        for one in (order, [0, 1, 2]):
            setup = replace(SETUP, fit=replace(SETUP.fit, teacher_logits=SETUP.fit.teacher_logits[one]))
            policy = make("rl_kd", setup, mode="soft", warmup_fraction=0.0)
            with torch.no_grad():
                policy.slope.normal_(generator=torch.Generator().manual_seed(seed))
            found.append(weigh(policy, context_of(setup, 5))["kd_each"])
        torch.testing.assert_close(found[0], found[1][order], atol=1e-5, rtol=1e-4)

    def test_soft_weights_are_the_probabilities_over_their_sum(self):
        policy = make("rl_kd", SETUP, mode="soft", warmup_fraction=0.0, kd_weight=1.0)
        with torch.no_grad():
            policy.slope.normal_(generator=torch.Generator().manual_seed(0))
        context = context_of(SETUP, 5)
        weights = weigh(policy, context)["kd_each"]
        _, states, _ = policy.episode.take()
        probability = policy._preference(states).detach().sigmoid()
        torch.testing.assert_close(weights, probability / probability.sum(0))

    def test_the_policys_step_is_reinforce(self):
        """Against the gradient written out for a logistic policy: sum_k (a - p) s."""
        policy = make("rl_kd", SETUP, warmup_fraction=0.0, update_every=1, entropy_weight=0.0, reward="labels")
        student = torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
        context = context_of(SETUP, 3, student)
        weigh(policy, context)
        batch = policy.episode.batches[0]
        states, actions = batch["states"].double(), batch["actions"].double()
        rows = (context.ids - 100) // 3
        reward = student[rows].double().log_softmax(-1)[torch.arange(8), context.labels]
        advantage = (reward - reward.mean()) / reward.std(correction=0)
        expected = (advantage * ((actions - 0.5).unsqueeze(-1) * states).sum(0).T).mean(-1)
        policy.after_step(context)
        torch.testing.assert_close(-policy.slope.grad[0].double(), expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("reward", ["labels", "labels_and_teachers", "accuracy"])
    def test_the_three_rewards(self, reward):
        policy = make("rl_kd", SETUP, reward=reward, accuracy_weight=3.0)
        student = torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
        context = context_of(SETUP, 3, student)
        actions = torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 2 + [[0.0, 1.0, 0.0, 1.0]])
        rows = (context.ids[:4] - 100) // 3
        found = policy._rewards(context, context.ids[:4], actions)
        expected = student[rows].log_softmax(-1)[torch.arange(4), context.labels[:4]]
        if reward != "labels":
            log_student = (student[rows] / 2).log_softmax(-1)
            p = (SETUP.fit.teacher_logits[:, rows] / 2).softmax(-1)
            kd = 4 * (p * (p.log() - log_student)).sum(-1)
            means = [kd[:2, 0].mean(), kd[2, 1], kd[:, 2].mean(), kd[:, 3].mean()]
            expected = expected - torch.stack(means)
        if reward == "accuracy":  # the made-up student is right on all of the meta set
            expected = expected + 3.0
        torch.testing.assert_close(found, expected)

    def test_the_policy_learns_which_teachers_help(self):
        """Samples earn more the more teacher 0 and the less teacher 2 was selected: their probabilities drift apart."""
        policy = make("rl_kd", SETUP, warmup_fraction=0.0, update_every=1, shared_policy=False, representation="none")
        policy._rewards = lambda context, ids, actions: actions[0] - actions[2]
        run(policy, SETUP, range(150))
        preference = policy.intercept.detach().squeeze(-1)
        assert preference[0] > 0.5
        assert preference[2] < -0.5
        assert abs(float(preference[1])) < 0.5

    def test_an_advantage_counts_what_a_whole_episode_shares(self):
        policy = make("rl_kd", SETUP)
        policy._advantage(torch.randn(50, generator=torch.Generator().manual_seed(0)))
        assert float(policy._advantage(torch.full((8,), 2.0)).min()) > 1.0

    def test_the_episode_survives_a_checkpoint(self):
        whole = make("rl_kd", SETUP, update_every=4)
        expected = run(whole, SETUP, range(20))
        first = make("rl_kd", SETUP, update_every=4)
        run(first, SETUP, range(11))
        assert len(first.episode) == 1
        second = make("rl_kd", SETUP, update_every=4)
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(run(second, SETUP, range(11, 20)), expected[11:], rtol=0, atol=0)

    def test_teachers_vectors_of_several_sizes_are_refused_for_a_state(self):
        setup = replace(SETUP, teacher_hidden_sizes=(6, 6, 5))
        with pytest.raises(ValueError, match="teacher0: 6, teacher1: 6, teacher2: 5"):
            make("rl_kd", setup, representation="teachers")
        equal = run(make("rl_kd", SETUP, representation="teachers"), SETUP, range(15))
        assert all(weight.isfinite().all() for one in equal for weight in one.values())


class TestMTKDRL:
    def test_the_first_epoch_is_at_equal_weights_of_one_each(self):
        context = context_of(SETUP, 2)
        torch.testing.assert_close(weigh(make("mtkd_rl", SETUP, paper_scale=True), context)["kd_each"], torch.ones(3, 8))
        weights = weigh(make("mtkd_rl", SETUP, kd_weight=1.0), context)["kd_each"]
        torch.testing.assert_close(weights, torch.full((3, 8), 1 / 3))

    def test_then_at_first_the_mean_of_equal_weights_and_two_heuristics(self):
        context = context_of(SETUP, 2)
        weights = weigh(make("mtkd_rl", SETUP, kd_weight=1.0, equal_epochs=0), context)["kd_each"]
        confidence = weigh(make("ca_mkd", SETUP, kd_weight=1.0), context)["kd_each"]
        divergence = context.terms["kd_each"].softmax(0)
        torch.testing.assert_close(weights, (1 / 3 + confidence + divergence) / 3)
        alone = weigh(make("mtkd_rl", SETUP, kd_weight=1.0, heuristics=False, equal_epochs=0), context)["kd_each"]
        torch.testing.assert_close(alone, torch.full((3, 8), 1 / 3))

    def test_the_agent_trains_by_the_authors_loss(self):
        """Their `train` and `train_agent` typed out: a reward for each sample, binary cross-entropy of the combined weights
        with 1, and a step for each batch, in phases of three batches and at the ends of epochs, the first at equal weights."""
        strategy = make("mtkd_rl", SETUP, update_every=3, kd_weight=1.0)
        agent = copy.deepcopy(strategy.agent)
        optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
        states: list[torch.Tensor] = []
        inner = strategy._states
        strategy._states = lambda *given: states.append(inner(*given)) or states[-1]

        def combined(state, ce, kd):
            first = agent(state).softmax(1)
            return (first + (1 - F.softmax(ce, dim=1)) / 2 + F.softmax(kd, dim=1)) / 3

        phase = []
        for step in range(15):
            context = context_of(SETUP, step)
            found = weigh(strategy, context)["kd_each"]
            labels = context.labels
            ce = torch.stack([F.cross_entropy(t, labels, reduction="none") for t in context.teacher_logits], 1)
            soft = (context.student_logits / 2).log_softmax(1)
            kd = torch.stack(
                [4 * F.kl_div(soft, (t / 2).softmax(1), reduction="none").sum(1) for t in context.teacher_logits], 1
            )
            actions = torch.ones(8, 3) if step < 5 else combined(states[-1], ce, kd).detach()
            torch.testing.assert_close(found.T, actions / actions.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
            reward = -(F.cross_entropy(context.student_logits, labels, reduction="none") + (actions * kd).sum(1))
            reward = torch.clamp((reward - reward.mean()) / reward.std(), min=0, max=1)
            phase.append((states[-1], ce, kd, reward))
            strategy.after_step(context)
            ends = step % 5 == 4
            if ends:
                strategy.end_epoch(step // 5, {})
            if len(phase) == 3 or ends:
                for state, ce, kd, reward in phase:
                    predicted = combined(state, ce, kd)
                    loss = F.binary_cross_entropy(predicted, torch.ones_like(predicted), weight=reward.unsqueeze(-1))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                phase = []
        for ours, theirs in zip(strategy.agent.parameters(), agent.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    def test_a_batch_on_which_all_samples_lose_the_same_teaches_nothing(self):
        assert rewards(torch.full((8,), 3.0)).tolist() == [0.0] * 8
        assert rewards(torch.tensor([2.0])).tolist() == [0.0]

    def test_the_phase_survives_a_checkpoint(self):
        expected = run(make("mtkd_rl", SETUP, update_every=4), SETUP, range(20))
        first, second = (make("mtkd_rl", SETUP, update_every=4) for _ in range(2))
        run(first, SETUP, range(10))
        assert len(first.phase) == 2
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(run(second, SETUP, range(10, 20)), expected[10:], rtol=0, atol=0)


class TestMMKD:
    def test_weight_moves_to_the_teacher_whose_term_helps_hard_rows(self):
        """A positive influence of teacher 2's term: a step on it lowers the loss."""
        influence = {"ce": torch.zeros(8), "kd_each": torch.tensor([-1.0, 0.0, 1.0]).unsqueeze(-1).expand(3, 8)}
        network = make("mmkd", SETUP, kd_weight=1.0, interval=1, meta_learning_rate=1e-2)
        found = run(network, SETUP, range(40), influence=influence)
        # the first update comes before the first weights
        np.testing.assert_allclose(found[0]["kd_each"].mean(-1), 1 / 3, atol=0.02)
        mean = found[-1]["kd_each"].mean(-1)
        assert mean[2] > 0.5 > 0.3 > mean[0]

    def test_the_look_ahead_is_two_kd_steps_and_one_of_cross_entropy_every_interval_steps(self):
        asked = []

        def influence(weights):
            asked.append(weights)
            return {"ce": torch.zeros(8), "kd_each": torch.ones(3, 8)}

        run(make("mmkd", SETUP), SETUP, range(11), influence=influence)
        assert len(asked) == 3
        for weights in asked:
            torch.testing.assert_close(weights["ce"], torch.ones(8))
            torch.testing.assert_close(weights["kd_each"].sum(0), torch.full((8,), 2.0))

    def test_full_of_rows_it_takes_in_those_that_the_student_gets_wrong(self):
        strategy = make("mmkd", SETUP, buffer_size=8, interval=100)
        first = context_of(SETUP, 1)
        weigh(strategy, first)
        assert strategy.hard.ids.tolist() == sorted(first.ids.tolist())
        second = context_of(SETUP, 2)
        weigh(strategy, second)
        wrong = second.ids[second.student_logits.argmax(-1) != second.labels].tolist()
        kept = set(first.ids.tolist()) & set(strategy.hard.ids.tolist())
        assert 0 < len(wrong) < 8
        assert set(strategy.hard.ids.tolist()) == set(wrong) | kept

    def test_the_networks_gradient_is_the_authors_through_three_steps(self):
        """Their inner and outer objectives typed out on a linear student, differentiated literally through two KD steps and one
        on cross-entropy, all on the rows that were drawn, with a small learning rate."""
        strategy = make("mmkd", SETUP, paper_scale=True)
        network, rate, inputs = strategy.meta_learner.network, 1e-4, normal(60, 5, seed=1)
        for seed, parameter in enumerate(network.parameters()):
            parameter.data = normal(*parameter.shape, seed=seed)
        student = normal(5, 3, seed=2).double().requires_grad_()
        captured = {}
        inputs = inputs.double()

        def rows_of(ids):
            return (ids - 100) // 3

        def kd_each(weight, rows):
            teachers = (SETUP.fit.teacher_logits[:, rows].double() / 2).softmax(-1)
            log = (inputs[rows] @ weight / 2).log_softmax(-1)
            return 4 * (teachers * (teachers.log() - log)).sum(-1)

        def look_ahead(weights, ids):
            rows = captured["rows"] = rows_of(ids)
            labels = SETUP.fit.labels[rows]
            step = (weights["kd_each"] * kd_each(student, rows)).sum() + (
                weights["ce"] * F.cross_entropy(inputs[rows] @ student, labels, reduction="none")
            ).sum()
            fast = student - rate * torch.autograd.grad(step / len(ids), student)[0]
            direction = torch.autograd.grad(F.cross_entropy(inputs[rows] @ fast, labels), fast)[0]
            with torch.no_grad():
                along = (kd_each(student + 1e-6 * direction, rows) - kd_each(student - 1e-6 * direction, rows)) / 2e-6
            return {"ce": torch.zeros(len(ids)), "kd_each": along.float()}

        strategy.meta_learner.descend = lambda objective: captured.update(
            ours=torch.autograd.grad(objective, list(network.parameters()))
        )
        context = replace(context_of(SETUP, 0), look_ahead=look_ahead)
        weigh(strategy, replace(context, replay=lambda ids: (inputs[rows_of(ids)] @ student).detach().float()))

        rows, weight = captured["rows"], student
        for _ in range(2):
            logits = torch.cat([*SETUP.fit.teacher_logits[:, rows], (inputs[rows] @ weight).detach().float()], 1)
            logits = torch.cat([part - part.mean(1, keepdim=True) for part in logits.split(3, 1)], 1)
            loss = (network(logits).softmax(1).T * kd_each(weight, rows)).sum(0).mean()
            weight = weight - rate * torch.autograd.grad(loss, weight, create_graph=True)[0]
        loss = F.cross_entropy(inputs[rows] @ weight, SETUP.fit.labels[rows])
        weight = weight - rate * torch.autograd.grad(loss, weight, create_graph=True)[0]
        literal = torch.autograd.grad(
            F.cross_entropy(inputs[rows] @ weight, SETUP.fit.labels[rows]), list(network.parameters())
        )
        for ours, theirs in zip(captured["ours"], literal, strict=True):
            torch.testing.assert_close(2 * rate * ours, theirs, rtol=1e-2, atol=1e-9)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
