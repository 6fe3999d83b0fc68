"""Relations between the samples of a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.models.build import build_model
from harness.models.student_pass import StudentPass
from harness.study.schema import ModelSpec
from tests.harness.loss_terms.given import CLASSES, ROWS, VOCABULARY, inputs, make, normal, rows

FIT = rows()


def given(student, teacher, **options):
    term = make("relational_kd", FIT, **options)
    return term(inputs(FIT, student_features=student, teacher_features=(teacher,)))


def test_zero_where_student_and_teacher_relate_the_samples_alike():
    """Rotated and scaled vectors have the same cosines."""
    teacher = normal(ROWS, 4, seed=1)
    rotation = torch.linalg.qr(normal(4, 4, seed=2)).Q
    alike = given(3 * teacher @ rotation, teacher, teacher_sharpening=1.0)
    torch.testing.assert_close(alike, torch.zeros(ROWS), atol=1e-5, rtol=0)
    assert (given(3 * teacher @ rotation, teacher) > 1e-3).any()  # sharpened, the teacher asks for more


def test_against_the_definition_sample_by_sample():
    student, teacher = normal(ROWS, 4, seed=1), normal(ROWS, 5, seed=2)
    found = given(student, teacher, temperature=0.5, teacher_sharpening=0.4, cosine=False)
    for i in range(ROWS):
        others = [j for j in range(ROWS) if j != i]
        own = torch.stack([student[i] @ student[j] for j in others]).div(0.5).softmax(0)
        wanted = torch.stack([teacher[i] @ teacher[j] for j in others]).div(0.2).softmax(0)
        torch.testing.assert_close(found[i], torch.special.xlogy(wanted, wanted / own).sum(), rtol=1e-4, atol=1e-5)


def test_a_part_of_the_batch_gets_its_own_rows():
    """As on a rank: the gathered batch is whole, the values are the rank's."""
    student, teacher = normal(ROWS, 4, seed=1), normal(ROWS, 5, seed=2)
    term = make("relational_kd", FIT)
    whole = inputs(FIT, student_features=student, teacher_features=(teacher,))
    torch.testing.assert_close(term(replace(whole, own_rows=slice(2, 5))), term(whole)[2:5])


def test_permuting_the_batch_permutes_the_values():
    student, teacher = normal(ROWS, 4, seed=1), normal(ROWS, 5, seed=2)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(given(student[order], teacher[order]), given(student, teacher)[order])


def test_batches_of_one_and_two_say_nothing():
    for size in (1, 2):
        student = normal(size, 4, seed=1).requires_grad_()
        found = given(student, normal(size, 5, seed=2))
        assert found.tolist() == [0.0] * size
        assert torch.autograd.grad(found.sum(), student)[0].isfinite().all()


def test_gradients_are_those_of_finite_differences():
    student, teacher = normal(ROWS, 4, seed=1).double(), normal(ROWS, 5, seed=2)
    term = make("relational_kd", FIT, temperature=0.5)

    def value(features):
        return term(inputs(FIT, student_features=features.float(), teacher_features=(teacher,))).double().sum()

    leaf = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    direction = normal(ROWS, 4, seed=9).double()
    slope = (value(student + 1e-2 * direction) - value(student - 1e-2 * direction)) / 2e-2
    torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("micro_batches", [2, 3, ROWS])
def test_micro_batches_relate_each_sample_to_the_whole_batch(micro_batches):
    """Value and gradient are those of one pass, and not those of the parts by themselves."""
    batch = FIT.batch(np.arange(ROWS), ROWS, torch.device("cpu"), 0)
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    spec = ModelSpec(config={**config, "initializer_range": 0.5}, dropout=0.0)
    student = StudentPass(build_model(spec, CLASSES, 0, VOCABULARY))
    term, teacher = make("relational_kd", FIT), normal(ROWS, 5, seed=2)

    def values_and_gradient(parts):
        student.micro_batches, student.training = parts, True
        student.zero_grad()
        values = term(inputs(FIT, student_features=student(batch, True, False).features, teacher_features=(teacher,)))
        (values * torch.arange(ROWS)).sum().backward()
        return values.detach(), torch.cat([p.grad.reshape(-1) for p in student.parameters() if p.grad is not None])

    whole, split = values_and_gradient(1), values_and_gradient(micro_batches)
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)
    features = student(batch, True, False).features
    alone = term(inputs(FIT, student_features=features[:3], teacher_features=(teacher[:3],)))
    assert not torch.allclose(alone, whole[0][:3], atol=1e-2)
