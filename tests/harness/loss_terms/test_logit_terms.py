from dataclasses import replace

import pytest
import torch

from harness.loss_terms import losses
from harness.loss_terms.logit_terms import TERMS, TermInputs, compute_terms
from harness.loss_terms.registry import needs_of_terms
from strategies.base import Needs, TermShape


def inputs(teachers=2, shape=None):
    generator = torch.Generator().manual_seed(0)
    return TermInputs(
        student_logits=torch.randn(5, 3, generator=generator).requires_grad_(),
        teacher_logits=torch.randn(teachers, 5, 3, generator=generator),
        labels=torch.tensor([0, 1, 2, 1, 0]),
        shape=shape or TermShape(temperature=2.0),
    )


@pytest.mark.parametrize("name", sorted(TERMS))
def test_every_term_is_per_sample_and_reaches_the_student(name):
    given = inputs()
    value = compute_terms([name], given)[name]
    assert value.shape == ((2, 5) if name == "kd_each" else (5,))
    assert value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(value.sum(), given.student_logits)
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", sorted(set(TERMS) - {"ce"}))
def test_a_teacher_s_term_without_teachers_is_refused(name):
    with pytest.raises(ValueError, match="teachers"):
        compute_terms([name], inputs(teachers=0))


def test_cross_entropy_needs_no_teacher():
    assert compute_terms(["ce"], inputs(teachers=0))["ce"].shape == (5,)


def test_kd_is_the_mean_over_teachers():
    found = compute_terms(["kd", "kd_each"], inputs())
    assert list(found) == ["kd", "kd_each"]
    torch.testing.assert_close(found["kd"], found["kd_each"].mean(0))


@pytest.mark.parametrize("name", ["kd", "kd_each", "tckd", "nckd", "standardised_kd"])
def test_a_temperature_per_sample(name):
    temperatures = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = compute_terms([name], inputs(shape=TermShape(temperatures)))[name]
    for i, temperature in enumerate(temperatures):
        alone = compute_terms([name], inputs(shape=TermShape(float(temperature))))[name]
        torch.testing.assert_close(found[..., i], alone[..., i])


def test_regression_uses_the_step_s_scale():
    given = inputs(teachers=1, shape=TermShape(2.0, teacher_scale=0.25))
    expected = losses.mse_logits(given.student_logits, given.teacher_logits[0] * 0.25)
    torch.testing.assert_close(compute_terms(["mse_logits"], given)["mse_logits"], expected)


def test_an_unknown_term_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'mse_logits'"):
        compute_terms(["mse_logit"], inputs())


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match=r"'kd' has no option.*'tau'"):
        compute_terms(["kd"], inputs(), {"kd": {"tau": 1.0}})


def test_a_term_of_ones_own_gets_its_options(monkeypatch):
    def scaled(given: TermInputs, factor: float = 1.0) -> torch.Tensor:
        return factor * given.student_logits[:, 0]

    monkeypatch.setitem(TERMS, "scaled", scaled)
    given = inputs()
    found = compute_terms(["ce", "scaled"], given, {"scaled": {"factor": 3.0}})
    torch.testing.assert_close(found["scaled"], 3.0 * given.student_logits[:, 0])


@pytest.mark.parametrize("name", sorted(TERMS))
def test_terms_that_read_the_level_of_a_teacher_s_logits_say_so(name):
    """Stored probabilities leave it open, and are refused for such terms."""
    given = inputs()
    raised = replace(given, teacher_logits=given.teacher_logits + torch.arange(10.0).reshape(2, 5, 1))
    same = torch.allclose(compute_terms([name], given)[name], compute_terms([name], raised)[name], atol=1e-4)
    assert needs_of_terms(Needs(terms=(name,))).logit_level == (not same)
