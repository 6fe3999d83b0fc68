from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from harness.conformance.tiny_training import World
from harness.errors import StudyError
from harness.plan.plan import make_plan
from strategies import resolve
from strategies.meta_learned.rw_kd import features, share_of_kd
from tests.harness.tiny import tiny_study
from tests.strategies.contexts import make, make_context, make_setup, random_influence, steps, weigh

SETUP = make_setup()
influences = hnp.arrays("float32", (6,), elements=st.floats(-1e3, 1e3, width=32)).map(torch.from_numpy)


def pull(kd: float) -> dict[str, torch.Tensor]:
    """An influence that wants the KD weight of every sample up (or down)."""
    return {"ce": torch.zeros(8), "kd": torch.full((8,), kd)}


class TestPerSample:
    def test_two_positive_influences_share_by_ratio(self):
        found = share_of_kd(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]), floor=1e-6)
        torch.testing.assert_close(found, torch.tensor([0.75, 0.25]))

    def test_signs_decide(self):
        ce, kd = torch.tensor([1.0, -1.0, -1.0, 1.0]), torch.tensor([-1.0, 1.0, -1.0, 1.0])
        found = share_of_kd(ce, kd, floor=1e-6)
        torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.5, 0.5]), atol=1e-5, rtol=0)
        assert found[2] == 0.5

    def test_no_helpful_influence_gives_one_half(self):
        assert (share_of_kd(torch.tensor([-1.0, 0.0]), torch.tensor([-2.0, 0.0]), 1e-6) == 0.5).all()

    @given(influences, influences, st.floats(1e-12, 1e6))
    def test_weights_do_not_depend_on_the_influences_scale(self, ce, kd, scale):
        torch.testing.assert_close(share_of_kd(ce * scale, kd * scale, 1e-3), share_of_kd(ce, kd, 1e-3), rtol=1e-3, atol=1e-4)

    @given(influences, influences)
    def test_exchanging_the_terms_exchanges_the_weights(self, ce, kd):
        torch.testing.assert_close(share_of_kd(ce, kd, 1e-6), 1 - share_of_kd(kd, ce, 1e-6))

    def test_identical_terms_and_gradients_give_one_half(self):
        influence = torch.randn(8, generator=torch.Generator().manual_seed(0))
        weights = weigh(
            make("rw_kd", SETUP, reading="per_sample"), make_context(SETUP, influence={"ce": influence, "kd": influence})
        )
        assert (weights["kd"] == 0.5).all()

    def test_teacher_equal_to_student_leaves_the_labels(self):
        """kd's gradient is 0, so its influence is floored: weight 0 where cross-entropy helps."""
        influence = {"ce": torch.tensor([1.0, -1.0] * 4), "kd": torch.zeros(8)}
        kd = weigh(make("rw_kd", SETUP, reading="per_sample"), make_context(SETUP, influence=influence))["kd"]
        assert kd[::2].max() < 1e-5
        assert (kd[1::2] == 0.5).all()

    def test_between_look_aheads_a_sample_keeps_its_weight(self):
        strategy = make("rw_kd", SETUP, reading="per_sample", interval=2)
        rows = torch.arange(8)
        first = weigh(strategy, make_context(SETUP, step=0, rows=rows, influence=random_influence(0)))["kd"]
        # half of the next batch was seen, half was not; without a look-ahead to call
        second = weigh(strategy, make_context(SETUP, step=1, rows=torch.arange(4, 12)))["kd"]
        torch.testing.assert_close(second[:4], first[4:])
        assert (second[4:] == 0.5).all()

    def test_smoothing_averages_over_a_samples_visits(self):
        strategy = make("rw_kd", SETUP, reading="per_sample", smoothing=0.75)
        rows = torch.arange(8)
        one = weigh(strategy, make_context(SETUP, step=0, rows=rows, influence=pull(1.0)))["kd"]
        two = weigh(strategy, make_context(SETUP, step=1, rows=rows.flip(0), influence=pull(-1.0)))["kd"]
        torch.testing.assert_close(one, torch.ones(8), atol=1e-5, rtol=0)
        torch.testing.assert_close(two, torch.full((8,), 0.75 * 1.0 + 0.25 * 0.5), atol=1e-5, rtol=0)


class TestNetwork:
    def test_starts_at_one_half(self):
        strategy = make("rw_kd", SETUP, interval=5)
        weigh(strategy, make_context(SETUP, step=0, influence=pull(0.0)))
        assert (weigh(strategy, make_context(SETUP, step=1))["kd"] == 0.5).all()

    @pytest.mark.parametrize(("direction", "above"), [(1.0, True), (-1.0, False)])
    def test_moves_toward_the_term_that_lowers_the_meta_loss(self, direction, above):
        strategy = make("rw_kd", SETUP)
        for context in steps(SETUP, 20, influence=pull(direction)):
            kd = weigh(strategy, context)["kd"]
        assert (kd > 0.5).all() if above else (kd < 0.5).all(), kd

    def test_learns_to_tell_samples_apart(self):
        """Where the teacher is wrong, KD harms: the network learns to see it from the features."""
        setup = make_setup(rows=64, teachers=1)
        strategy = make("rw_kd", setup, meta_learning_rate=1e-2)
        right = setup.fit.teacher_logits[0].argmax(-1) == setup.fit.labels
        for step in range(60):
            rows = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:32]
            gain = torch.where(right[rows], 1.0, -1.0)
            context = make_context(setup, step=step, rows=rows, influence={"ce": torch.zeros(32), "kd": gain})
            kd = weigh(strategy, context)["kd"]
        assert kd[right[rows]].mean() > kd[~right[rows]].mean() + 0.3

    def test_asks_for_the_look_ahead_of_the_weights_in_force(self):
        asked = []

        def influence(weights):
            asked.append(weights)
            return random_influence(len(asked))

        strategy = make("rw_kd", SETUP, look_ahead_rate=0.3)
        weigh(strategy, make_context(SETUP, influence=influence, learning_rate=0.1))
        # a step three times as long is asked for as weights three times as large
        torch.testing.assert_close(asked[0]["ce"], torch.full((8,), 1.5))
        assert not asked[0]["ce"].requires_grad

    def test_looks_ahead_every_interval_steps_only(self):
        asked = []

        def influence(weights):
            asked.append(weights)
            return random_influence(len(asked))

        strategy = make("rw_kd", SETUP, interval=3)
        for context in steps(SETUP, 7, influence=influence):
            weigh(strategy, context)
        assert len(asked) == 3

    def test_features_are_standardised(self):
        strategy = make("rw_kd", SETUP)
        for context in steps(SETUP, 30, influence=pull(0.0)):
            weigh(strategy, context)
        rest = torch.cat([strategy.standardise(features(c)) for c in steps(SETUP, 30)])
        torch.testing.assert_close(rest.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
        torch.testing.assert_close(rest.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)

    def test_a_feature_that_never_varies_is_ignored(self):
        """All features alike: the network is a learned global weight."""
        strategy = make("rw_kd", SETUP)
        for step in range(10):
            context = make_context(SETUP, rows=torch.zeros(8, dtype=torch.long), step=step, influence=pull(1.0))
            same = context.student_logits[:1].expand(8, -1)
            context = make_context(
                SETUP, rows=torch.zeros(8, dtype=torch.long), step=0, influence=pull(1.0), student_logits=same
            )
            kd = weigh(strategy, context)["kd"]
        torch.testing.assert_close(kd, kd[:1].expand(8))
        assert kd[0] > 0.5


@pytest.mark.parametrize(("settings", "weight"), [({}, 0.0), ({"reading": "per_sample"}, 1.0), ({"meta_kd_weight": 0.3}, 0.3)])
def test_the_meta_loss_is_the_one_of_each_reading(settings, weight):
    strategy = make("rw_kd", SETUP, **settings)
    needs = strategy.needs(strategy.settings)
    assert needs.look_ahead == "auto"
    assert needs.look_ahead_options["meta_kd_weight"] == weight
    assert needs.needs_meta_set


@pytest.mark.parametrize("reading", ["network", "per_sample"])
@pytest.mark.parametrize(
    "settings",
    [
        {"precondition": "adam"},
        {"engine": "jvp"},
        {"engine": "exact"},
        {"look_ahead_layers": 1},
        {"interval": 3, "smoothing": 0.9},
        {"look_ahead_rate": 0.5},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_options_in_a_small_training_with_the_real_look_ahead(reading, settings):
    """Every option runs, changes what it should, and keeps the weights convex and the state exact."""
    default = _default_trace(reading)
    changed = _trace({"reading": reading, **settings})
    renewed = _trace({"reading": reading, **settings}, renew_before=(2, 3, 7)) if "engine" not in settings else changed
    for ours, again in zip(changed, renewed, strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)
    difference = max(float((a["kd"] - b["kd"]).abs().max()) for a, b in zip(default, changed, strict=True))
    if "engine" in settings:
        tolerance = 0.02 if reading == "network" else 0.1  # a ratio of two small influences amplifies rounding
        assert difference < tolerance
    elif reading == "per_sample" and "look_ahead_rate" in settings:
        assert difference == 0  # its look-ahead starts from zero weights: the step size falls out
    else:
        assert difference > 1e-4
    for step in changed:
        torch.testing.assert_close(step["ce"] + step["kd"], torch.ones(8))


@cache
def _default_trace(reading):
    return _trace({"reading": reading})


def _trace(settings, renew_before=()):
    registered = resolve("rw_kd")
    made = registered.settings(settings)
    world = World(registered.needs(made), 1)
    return world.run(lambda: registered.create(made, world.setup), renew_before=renew_before).weights


class TestOldName:
    """Study files and stored trials of before say `meta_learner`."""

    def test_it_is_read_as_the_reading(self):
        registered = resolve("rw_kd")
        assert registered.settings({"meta_learner": "per_sample"}) == registered.settings({"reading": "per_sample"})
        assert registered.settings().model_dump()["reading"] == "network"

    def test_both_names_at_once_are_refused(self):
        with pytest.raises(ValidationError, match="meta_learner"):
            resolve("rw_kd").settings({"meta_learner": "network", "reading": "per_sample"})

    def test_trials_that_are_stored_with_it_can_be_made_again(self):
        stored = {"engine": "auto", "meta_learner": "network", "hidden_size": 100, "interval": 1, "precondition": "none"}
        assert resolve("rw_kd").settings(stored).reading == "network"


@pytest.mark.parametrize("settings", [{"look_ahead_layers": 1}, {"precondition": "adam"}, {"look_ahead_rate": 0.1}])
def test_what_does_not_go_with_the_optimiser_s_step_is_refused_at_plan(settings, tmp_path):
    entry = {"name": "rw_kd", "settings": {"look_ahead": "adamw", **settings}}
    with pytest.raises(StudyError, match=r"rw_kd.*adamw") as found:
        make_plan(tiny_study(strategies=[entry]), tmp_path)
    assert "\n" not in str(found.value)
    make_plan(tiny_study(strategies=[{"name": "rw_kd", "settings": {"look_ahead": "adamw"}}]), tmp_path)
