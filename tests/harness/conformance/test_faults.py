"""Each check finds the mistake that it is there for, and says what to change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.conformance import CHECKS, check
from harness.conformance.behaviour_card import behaviour_card, claim_faults
from harness.errors import UserError
from harness.loss_terms.parts import word_scores
from strategies import Strategy, registry, resolve, strategy_names
from strategies.registry import Registered

numbers = itertools.count()

PLUGIN = """
import torch
from strategies import Context, Cost, Needs, Normalisation, Settings, Strategy, register, FloatRange

{before}

class MySettings(Settings):
    {settings}

@register
class Mine(Strategy[MySettings]):
    name = "{name}"
    family = "mine"
    summary = "a strategy with one mistake"
    paper = "none"
    sample_wise = True
    normalisation = Normalisation.CONVEX
    Settings = MySettings
    {attributes}

    {methods}

    def weights(self, context):
        kd = context.teacher_logits[0].softmax(-1).max(-1).values ** 2
        {body}
        return {{"ce": 1 - kd, "kd": kd}}
"""


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    """No other test is to meet strategies that are wrong on purpose."""
    registry.load_builtin_strategies()
    before = dict(registry._strategies)
    yield
    registry._strategies.clear()
    registry._strategies.update(before)


def plugin(folder: Path, *, before="", settings="pass", attributes="", methods="", body="pass") -> Path:
    name = f"mine{next(numbers)}"
    file = folder / f"{name}.py"
    file.write_text(
        PLUGIN.format(
            name=name,
            before=before,
            settings=settings,
            attributes=attributes.replace("\n", "\n    "),
            methods=methods.replace("\n", "\n    "),
            body=body.replace("\n", "\n        "),
        )
    )
    return file


def failures(file: Path) -> dict[str, str]:
    (report,) = check(file).strategies
    back = {text: name for name, text in CHECKS.items()}
    return {back[finding.check]: finding.message for finding in report.findings if not finding.passed}


def test_a_sound_plugin_outside_the_project_passes_every_check(tmp_path):
    report = check(plugin(tmp_path))
    assert report.passed, str(report)
    assert f"{len(CHECKS)} checks passed" in str(report)
    assert str(tmp_path) in str(report)


STATE = "def __init__(self, settings, setup):\n    super().__init__(settings, setup)\n    self.seen = 0"
MISTAKES = {
    "declaration": ({"attributes": "sample_wise = None"}, "sample_wise"),
    "settings": ({"settings": "rate: float"}, "rate"),
    "search space": (
        {"settings": 'rate: float = 1.0\n    """Rate."""\n    search_space = {"rat": FloatRange(low=0, high=1)}'},
        "no setting",
    ),
    "needs": (
        {"methods": '@classmethod\ndef needs(cls, settings):\n    return Needs(terms=("ce", "kdd"))'},
        "kdd",
    ),
    "fidelity": ({"attributes": 'paper = "Somebody, Somewhere 2024"'}, "'Differs: '"),
    "runs": ({"body": 'return {"ce": 1.0}'}, "gave no weight for ['kd']"),
    "detached": ({"body": "kd = kd * torch.ones((), requires_grad=True)"}, "detach()"),
    "context untouched": ({"body": "context.terms['ce'].mul_(2.0)"}, "terms['ce']"),
    "randomness": ({"body": "torch.rand(1)"}, "generator=context.generator"),
    "order of the batch": ({"body": "kd = kd * torch.linspace(0.5, 1.0, len(kd))"}, "context.ids"),
    "order of the teachers": (
        {
            "methods": "@classmethod\ndef needs(cls, settings):\n    return Needs(terms=('ce', 'kd_each'), teachers=(2, None))",
            "body": "kd = torch.stack([kd, *(0 * context.terms['kd_each'][1:])])\nreturn {'ce': 1 - kd[0], 'kd_each': kd}",
        },
        "the order in which the study names the teachers",
    ),
    "determinism": ({"before": "SEEN = []", "body": "SEEN.append(1)\nkd = kd / (1 + len(SEEN))"}, "globals"),
    "state": ({"methods": STATE, "body": "self.seen += 1\nkd = kd / self.seen"}, "state_dict()"),
    "normalisation": ({"body": 'return {"ce": torch.ones_like(kd), "kd": kd}'}, "ADDITIVE"),
    "sample-wise": ({"body": "kd = kd.mean()"}, "Declare False"),
    "cost": ({"attributes": "cost = Cost.PER_TERM"}, "Cost.PLAIN"),
    "claims": ({"attributes": '__doc__ = "Claims: kd falls with teacher confidence."'}, "turned round"),
    "own behaviour": (
        {"attributes": "sample_wise = False", "body": 'return {"ce": 0.5, "kd": 0.5}'},
        "'fixed_alpha'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_and_explained(name, tmp_path):
    options, advice = MISTAKES[name]
    found = failures(plugin(tmp_path, **options))
    assert name in found, found
    assert advice in found[name]
    # nothing else is blamed, but for what follows from the mistake
    follows = {"determinism": {"state", "order of the batch"}, "state": {"order of the batch"}}
    assert set(found) - {name} <= follows.get(name, set()), found


def test_what_is_another_strategy_in_its_first_steps_alone_is_no_twin(tmp_path):
    body = 'share = 0.5 if context.step < 12 else 0.4\nreturn {"ce": 1 - share, "kd": share}'
    assert not failures(plugin(tmp_path, attributes="sample_wise = False", body=body))


def test_weights_that_are_not_finite_are_found(tmp_path):
    found = failures(plugin(tmp_path, body="kd = kd / 0.0"))
    assert "not finite at step" in found["finite"]


def test_a_single_teacher_is_tried_where_it_is_allowed(tmp_path):
    methods = "@classmethod\ndef needs(cls, settings):\n    return Needs(terms=('ce', 'kd_each'), teachers=(1, None))"
    body = "w = (1 - context.terms['kd_each'].softmax(0)) / (len(context.teacher_logits) - 1)\nreturn {'ce': 0.0, 'kd_each': w}"
    found = failures(plugin(tmp_path, methods=methods, body=body))
    assert list(found) == ["finite"]
    assert "with 1 teacher(s)" in found["finite"]


@pytest.mark.parametrize(
    ("attributes", "body", "advice"),
    [
        ("normalisation = Normalisation.ADDITIVE", "kd = kd + 1", "below 0"),
        ("normalisation = Normalisation.BATCH", 'return {"ce": kd, "kd": kd}', "mean over the batch"),
        ("sample_wise = False", "pass", "Declare sample_wise = True"),
    ],
)
def test_other_broken_promises(attributes, body, advice, tmp_path):
    assert advice in " ".join(failures(plugin(tmp_path, attributes=attributes, body=body)).values())


class TestChoices:
    """What is true of the defaults need not be true of a setting's other choices."""

    SCALE = 'doubled: bool = False\n    """Twice as large."""'
    BODY = "if self.settings.doubled:\n    return {'ce': 2 - 2 * kd, 'kd': 2 * kd}"

    def test_a_promise_that_a_setting_breaks_is_found(self, tmp_path):
        found = failures(plugin(tmp_path, settings=self.SCALE, body=self.BODY))
        assert list(found) == ["normalisation"]
        assert "with doubled = True: declares convex" in found["normalisation"]
        assert "normalisation_with" in found["normalisation"]

    def test_a_promise_that_follows_the_setting_is_kept(self, tmp_path):
        follows = "return Normalisation.ADDITIVE if settings.doubled else cls.normalisation"
        methods = f"@classmethod\ndef normalisation_with(cls, settings):\n    {follows}"
        assert not failures(plugin(tmp_path, settings=self.SCALE, body=self.BODY, methods=methods))

    def test_a_choice_that_does_not_run_is_named(self, tmp_path):
        found = failures(plugin(tmp_path, settings=self.SCALE, body="if self.settings.doubled:\n    raise KeyError('half')"))
        assert list(found) == ["runs"]
        assert "with doubled = True: KeyError: 'half'" in found["runs"]

    def test_a_choice_with_weights_that_are_not_finite_is_named(self, tmp_path):
        found = failures(plugin(tmp_path, settings=self.SCALE, body="if self.settings.doubled:\n    kd = kd / 0.0"))
        assert list(found) == ["finite"]
        assert "with doubled = True" in found["finite"]


def test_state_must_be_tensors_and_plain_values(tmp_path):
    methods = "def state_dict(self):\n    return {'me': self}\n\ndef load_state_dict(self, state):\n    pass"
    found = failures(plugin(tmp_path, methods=methods))
    assert "UnpicklingError" in found["runs"] or "pickle" in found["runs"].lower()


def test_an_unused_look_ahead_is_found(tmp_path):
    methods = '@classmethod\ndef needs(cls, settings):\n    return Needs(look_ahead="fd")'
    found = failures(plugin(tmp_path, methods=methods, attributes="cost = Cost.LOOK_AHEAD"))
    assert "never called" in found["cost"]


def test_a_plugin_wrapper_is_checked_around_a_strategy(tmp_path):
    file = tmp_path / "halved.py"
    file.write_text(
        "from strategies import Wrapper, register_wrapper\n"
        "@register_wrapper\n"
        "class Halved(Wrapper):\n"
        "    name, family, summary, paper = 'halved', 'control', 'half the weights', 'control'\n"
        "    def weights(self, context):\n"
        "        return {name: weight / 2 for name, weight in self.inner.weights(context).items()}\n"
    )
    report = check(file)
    assert [strategy.name for strategy in report.strategies] == ["halved(wsl)"]
    assert report.passed, str(report)


class TestBadTargets:
    def test_unknown_name(self):
        with pytest.raises(UserError, match="Did you mean 'wsl'"):
            check("wsll")

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            check(tmp_path / "absent.py")

    def test_file_that_does_not_import(self, tmp_path):
        file = tmp_path / "broken.py"
        file.write_text("import not_a_module\n")
        with pytest.raises(UserError, match=r"ModuleNotFoundError.*broken\.py:1"):
            check(file)

    def test_file_without_a_strategy(self, tmp_path):
        file = tmp_path / "empty.py"
        file.write_text("x = 1\n")
        with pytest.raises(UserError, match="@register"):
            check(str(file))


class TestBehaviourCard:
    """The directions that sources claim would have shown these two strategies in the reversed direction they once had."""

    @staticmethod
    def faults(strategy: type[Strategy[Any]]) -> str:
        registered = Registered(strategy.name, strategy)
        return "; ".join(text for _, text in claim_faults(registered, behaviour_card(registered)))

    def test_student_uncertainty_turned_round(self):
        strategy = resolve("student_uncertainty").strategy

        class Turned(strategy):
            __doc__ = strategy.__doc__

            def weights(self, context):
                return {**super().weights(context), "kd": 1 - super().weights(context)["kd"]}

        assert self.faults(strategy) == ""
        assert "kd rises with student confidence, and the rank correlation is -0." in self.faults(Turned)

    def test_word_importance_turned_round(self, monkeypatch):
        strategy = resolve("word_importance").strategy
        assert self.faults(strategy) == ""
        right = word_scores.tf_idf
        monkeypatch.setattr(word_scores, "tf_idf", partial(right, alpha=0.5, beta=0.25))  # as it was: nobody's constants
        assert "word_kd rises with frequent words, and the rank correlation is -0." in self.faults(strategy)

    def test_it_is_printed_with_the_checks(self):
        shown = str(check("teacher_entropy"))
        assert "rank correlation of weights with" in shown
        assert "+0.99" in shown or "+1.00" in shown
        assert "the same for all samples" in str(check("fixed_alpha"))

    @pytest.mark.parametrize(
        ("claim", "advice"),
        [
            ("kd goes up with age", "not of the form"),
            ("kdd rises with student loss", "Did you mean 'kd'"),
            ("kd rises with student los", "Did you mean 'student loss'"),
        ],
    )
    def test_a_claim_that_cannot_be_read_is_explained(self, claim, advice, tmp_path):
        found = failures(plugin(tmp_path, attributes=f'__doc__ = "Claims: {claim}."'))
        assert list(found) == ["claims"]
        assert advice in found["claims"]


def test_every_difference_from_a_source_says_why():
    for name in strategy_names():
        registered = resolve(name)
        if registered.strategy.__module__.startswith("strategies."):
            said = registered.fidelity
            assert said, name
            assert not said.startswith("Differs") or all(" because " in part for part in said.split(";")[:1]), name
            # a convention has no paper to differ from, and what names one says how it compares
            assert said.startswith("No paper") == registered.strategy.paper.startswith("convention"), name


def test_a_difference_without_a_reason_is_found(tmp_path):
    found = failures(plugin(tmp_path, attributes='__doc__ = "Differs: in all."'))
    assert list(found) == ["fidelity"]
    assert "because" in found["fidelity"]
