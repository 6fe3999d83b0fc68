"""Each check of a loss term finds the mistake that it is there for; the terms of this project pass all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.conformance import check
from harness.conformance.terms import CHECKS
from harness.errors import StudyError, UserError
from harness.loss_terms import registry
from harness.loss_terms.logit_terms import TERMS
from harness.plan.plan import make_plan
from tests.harness.tiny import tiny_study

numbers = itertools.count()
IMPORT = "from harness.loss_terms import LossTerm, register_term\n"
TERM = '''
import torch
from harness.loss_terms import LossTerm, TermNeeds, TermOptions, register_term


class MyOptions(TermOptions):
    {options}


@register_term
class Mine(LossTerm[MyOptions]):
    """Squared difference of probabilities."""

    name = "{name}"
    summary = "squared difference of probabilities"
    Options = MyOptions

    @classmethod
    def needs(cls, options):
        return TermNeeds({needs})

    def __call__(self, inputs):
        student, teacher = inputs.student_logits.softmax(-1), inputs.teacher_logits[0].softmax(-1)
        value = (student - teacher).square().sum(-1)
        {body}
'''


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    registry.load_builtin_terms()
    before, plain = dict(registry._terms), dict(TERMS)
    yield
    for table, kept in ((registry._terms, before), (TERMS, plain)):
        table.clear()
        table.update(kept)


def plugin(folder: Path, body: str = "return value", options: str = "pass", needs: str = "") -> Path:
    file = folder / f"term{next(numbers)}.py"
    file.write_text(TERM.format(name=f"mine{file.stem}", body=body.replace("\n", "\n        "), options=options, needs=needs))
    return file


def failures(file: Path) -> dict[str, str]:
    (report,) = check(file).strategies
    back = {text: name for name, text in CHECKS.items()}
    return {back[finding.check]: finding.message for finding in report.findings if not finding.passed}


@pytest.mark.parametrize("name", registry.term_names())
def test_the_project_s_terms_conform(name: str) -> None:
    report = check(name)
    assert report.passed, str(report)
    assert f"loss term {name}" in str(report)


def test_a_sound_term_of_a_plugin_passes(tmp_path: Path) -> None:
    report = check(plugin(tmp_path))
    assert report.passed, str(report)
    assert f"{len(CHECKS)} checks passed" in str(report)


MISTAKES = {
    "declaration": ({"options": "power: float = 2.0"}, "`power`"),
    "runs": ({"body": "return inputs.student_features.sum(-1)"}, ".py:"),
    "shape": ({"body": "return value.mean()"}, "Return [batch]"),
    "finite": ({"body": "return value / 0"}, "not finite"),
    "gradient": ({"body": "return value.detach()"}, "without detach()"),
    "samples apart": ({"body": "return value / value.sum()"}, "whole_batch=True"),
    "determinism": ({"body": "return value * torch.rand(len(value))"}, "setup.seed"),
    "look-ahead": ({"body": "return value * value.detach()"}, "stops_gradient=True"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_and_explained(name: str, tmp_path: Path) -> None:
    options, advice = MISTAKES[name]
    found = failures(plugin(tmp_path, **options))
    assert list(found) == [name], found
    assert advice in found[name]


@pytest.mark.parametrize(
    ("needs", "body"),
    [
        ("whole_batch=True", "return value / value.sum()"),
        ("stops_gradient=True", "return value * value.detach()"),
        ("student_features=True, bypasses_head=True", "return inputs.student_features.square().mean(-1)"),
    ],
)
def test_what_is_declared_is_no_mistake(needs: str, body: str, tmp_path: Path) -> None:
    assert not failures(plugin(tmp_path, body=body, needs=needs))


def test_what_bypasses_the_head_says_so(tmp_path: Path) -> None:
    body = "return inputs.student_features.square().mean(-1)"
    assert "bypasses_head=True" in failures(plugin(tmp_path, body=body, needs="student_features=True"))["gradient"]


def test_a_plain_function_is_a_term_too(tmp_path: Path) -> None:
    file = tmp_path / "plain.py"
    file.write_text(
        "from harness.loss_terms.logit_terms import TERMS\n"
        "def halved(inputs):\n"
        '    """Half of cross-entropy, [batch]."""\n'
        "    return TERMS['ce'](inputs) / 2\n"
        "TERMS['halved_ce'] = halved\n"
    )
    report = check(file)
    assert report.passed, str(report)
    assert [one.name for one in report.strategies] == ["loss term halved_ce"]


def test_a_file_that_registers_nothing_is_told_of_both_ways(tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"@register.*@register_term"):
        check(file)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\nundefined_name\n", 2),
        (
            IMPORT + "\n\n@register_term\nclass Mine(LossTerm):\n    summary = ''\n",
            4,
        ),
        (
            IMPORT + "\n@register_term\nclass Mine(LossTerm):\n    name = 'kd'\n",
            3,
        ),
    ],
)
def test_an_error_of_a_plugin_names_its_file_and_line_at_plan_and_check(text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / f"faulty{next(numbers)}.py"
    file.write_text(text)
    with pytest.raises(StudyError, match=rf"{file.name}:{line}"):
        make_plan(tiny_study(plugins=[str(file)]), tmp_path)
    with pytest.raises(UserError, match=rf"{file.name}:{line}"):
        check(file)
