"""A strategy's terms, made for a training: plain ones as ever, parameters trained, saved and averaged over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.data.output_names import LAYERS
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.logit_terms import compute_terms
from harness.ranks import Single
from strategies.base import Needs
from tests.harness.loss_terms.given import ROWS, STUDENT_HIDDEN, STUDENT_LAYERS, inputs, normal, rows, setup

PLAIN = ("ce", "kd", "kd_each", "tckd", "standardised_kd")
FIT = rows(**{LAYERS: normal(ROWS, 2, 5, seed=4)})
BOTH = Needs(terms=("ce", "word_kd", "kd", "layer_kd"), term_options={"word_kd": {"scores": "learned"}})


class TwoRanks(Single):
    """This rank's tensors twice: as if the other had the same."""

    world: Any = 2

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(2)


def test_plain_terms_are_bit_for_bit_those_of_the_table():
    found = inputs(FIT)
    one, two = LossTerms(Needs(terms=PLAIN))(found), compute_terms(PLAIN, found)
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in PLAIN)
    assert not LossTerms(Needs(terms=PLAIN)).parameter_groups()


def test_a_registered_term_needs_a_training():
    with pytest.raises(ValueError, match="'layer_kd' is made for a training"):
        LossTerms(Needs(terms=("layer_kd",)))


def test_parameters_come_in_groups_of_their_own_and_are_restored():
    terms = LossTerms(BOTH, setup(FIT))
    assert [group["scale"] for group in terms.parameter_groups()] == [100.0, 10.0]
    with torch.no_grad():
        for parameter in terms.parameters:
            parameter.add_(1.0)
    again = LossTerms(BOTH, setup(FIT))
    again.load_state_dict(terms.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(terms.parameters, again.parameters, strict=True))
    found = inputs(FIT, student_layers=normal(STUDENT_LAYERS, ROWS, STUDENT_HIDDEN))
    one, two = terms(found), again(found)
    assert list(one) == list(BOTH.terms)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("ranks", [Single(), TwoRanks()])
def test_gradients_are_averaged_and_clipped_and_a_missing_one_is_zero(ranks: Any):
    terms = LossTerms(BOTH, setup(FIT))
    scores = terms.parameters[0]
    scores.grad = torch.full_like(scores, 2.0)
    terms.reduce_gradients(ranks, clip_norm=1e9)
    assert torch.equal(scores.grad, torch.full_like(scores, 2.0))
    assert all(parameter.grad is not None for parameter in terms.parameters)
    terms.reduce_gradients(ranks, clip_norm=1.0)
    assert float(scores.grad.norm()) == pytest.approx(1.0, rel=1e-4)


def test_all_ranks_start_from_the_first_one_s_parameters():
    class Second(TwoRanks):
        rank: Any = 1

        def sum_(self, tensors: Sequence[Tensor]) -> None:
            for tensor in tensors:
                assert not tensor.any()
                tensor.fill_(7.0)

    terms = LossTerms(BOTH, setup(FIT))
    terms.agree(Second())
    assert all((parameter == 7.0).all() for parameter in terms.parameters)
