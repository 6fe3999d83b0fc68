"""Names, options and needs of loss terms, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.loss_terms import LossTerm, TermError, needs_of_terms, register_term
from harness.loss_terms.logit_terms import TERMS
from harness.loss_terms.registry import PLAIN, look_ahead_engine, look_ahead_refusal, registered_terms
from strategies.base import Needs


def test_the_plain_terms_are_those_of_the_table():
    assert set(PLAIN) == set(TERMS)


def test_every_term_says_what_it_is():
    for name, term in registered_terms().items():
        assert term.name == name
        assert term.summary
        assert term.__doc__
        for option, field in term.Options.model_fields.items():
            assert field.get_default() is not None, option
        needs_of_terms(Needs(terms=(name,)))


def test_needs_of_several_terms_add_up():
    needs = needs_of_terms(Needs(terms=("ce", "layer_kd", "relational_kd"), teacher_features=True))
    assert (needs.student_layers, needs.student_features, needs.whole_batch, needs.parts) == (True, True, True, False)
    assert needs.teacher_outputs == ("features", "layers")
    assert needs_of_terms(Needs()) == needs_of_terms(Needs(terms=("ce",)))
    assert needs_of_terms(Needs(terms=("layer_kd", "relational_kd"))).bypasses_head
    assert not needs.bypasses_head


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(terms=("ce", "layer_kf")), "Did you mean 'layer_kd'"),
        (Needs(terms=("ce", "ce")), "named twice"),
        (Needs(terms=("part_kd",), term_options={"part_kd": {"saliency": "high"}}), "'saliency'.*Options: saliency"),
        (Needs(terms=("word_kd",), term_options={"word_kd": {"score": "uniform"}}), "'score'"),
    ],
)
def test_mistakes_are_named(needs, message):
    with pytest.raises(TermError, match=message):
        needs_of_terms(needs)


def test_two_amounts_of_noise_do_not_go_together(monkeypatch):
    from harness.loss_terms import registry
    from harness.loss_terms.noisy_kd import NoisyKd

    monkeypatch.setattr(registry, "_terms", {**registered_terms(), "other": NoisyKd})
    with pytest.raises(TermError, match="different shares of words"):
        needs_of_terms(Needs(terms=("noisy_kd", "other"), term_options={"other": {"word_drop": 0.3}}))


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match=r"taken twice: by harness.loss_terms.logit_terms\.py"):
        register_term(type("Mine", (LossTerm,), {"name": "kd"}))
    with pytest.raises(ValueError, match="needs a class attribute `name`"):
        register_term(type("Mine", (LossTerm,), {}))
    with pytest.raises(ValueError, match="needs a class attribute `summary`"):
        register_term(type("Mine", (LossTerm,), {"name": "of_no_words"}))


def test_relations_over_workers_go_with_finite_differences_only():
    needs = needs_of_terms(Needs(terms=("relational_kd",)))
    assert "'fd'" in (look_ahead_refusal(needs, "jvp", 2) or "")
    assert [look_ahead_refusal(needs, *case) for case in (("jvp", 1), ("fd", 2), (None, 2))] == [None] * 3


def test_what_is_held_still_for_the_gradient_does_not_go_with_finite_differences():
    needs = needs_of_terms(Needs(terms=("layer_kd",), term_options={"layer_kd": {"attention_gradient": False}}))
    assert "attention_gradient: true" in (look_ahead_refusal(needs, "fd", 1) or "")
    assert look_ahead_refusal(needs, "jvp", 1) is None
    assert look_ahead_refusal(needs_of_terms(Needs(terms=("layer_kd",))), "fd", 1) is None


def test_auto_is_the_fastest_engine_that_the_terms_allow():
    def chosen(terms, workers=1, precision="fp32", **options):
        needs = needs_of_terms(Needs(terms=terms, term_options=options))
        assert look_ahead_refusal(needs, "auto", workers) is None
        return look_ahead_engine(needs, "auto", workers, precision, "cpu")

    assert [chosen(("ce", "kd"), precision=precision) for precision in ("fp32", "bf16")] == ["fd", "jvp"]
    assert chosen(("relational_kd",), 2, "bf16") == "fd"
    assert chosen(("layer_kd",), layer_kd={"attention_gradient": False}) == "jvp"
    neither = needs_of_terms(
        Needs(terms=("layer_kd", "relational_kd"), term_options={"layer_kd": {"attention_gradient": False}})
    )
    assert "'fd'" in (look_ahead_refusal(neither, "auto", 2) or "")
    assert look_ahead_engine(needs_of_terms(Needs()), "exact", 2, "bf16", "cuda") == "exact"


def test_declarations_do_not_import_torch():
    code = (
        "import sys\n"
        "from harness.loss_terms.registry import *\n"
        "for name in registered_terms(): needs_of_terms(Needs(terms=(name,)))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
