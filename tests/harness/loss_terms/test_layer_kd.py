"""Pseudo-classifiers, and the attention over the teacher's layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.data.labelled_rows import CachedRows
from harness.data.output_names import LAYERS
from harness.loss_terms.losses import kd
from harness.loss_terms.parts.probes import fit_probes
from tests.harness.loss_terms.given import CLASSES, ROWS, STUDENT_HIDDEN, STUDENT_LAYERS, inputs, make, normal, rows

HIDDEN = 5


def given(teacher_layers: int, **options):
    fit = rows(**{LAYERS: normal(ROWS, teacher_layers, HIDDEN, seed=4)})
    term = make("layer_kd", fit, **options)
    student = normal(STUDENT_LAYERS, ROWS, STUDENT_HIDDEN, seed=6).requires_grad_()
    return term, inputs(fit, student_layers=student)


def pseudo_logits(term, found):
    state = term.module.state_dict()
    student = [found.student_layers[m] @ state["weight"][m].T + state["bias"][m] for m in range(STUDENT_LAYERS)]
    hidden = found.batch.teacher_outputs[LAYERS][0]
    weights, biases = state["teacher_weight0"], state["teacher_bias0"]
    return student, [hidden[:, n] @ weights[n].T + biases[n] for n in range(hidden.shape[1])]


def test_with_one_teacher_layer_it_is_kd_between_pseudo_classifiers():
    term, found = given(1)
    student, (teacher,) = pseudo_logits(term, found)
    expected = torch.stack([kd(one, teacher, 2.0) for one in student]).mean(0)
    torch.testing.assert_close(term(found), expected)


def test_attention_is_the_softmax_of_inner_products_sample_by_sample():
    term, found = given(3)
    student, teacher = pseudo_logits(term, found)
    expected = torch.zeros(ROWS)
    for i in range(ROWS):
        for one in student:
            attention = torch.stack([one[i] @ layer[i] for layer in teacher]).softmax(0)
            target = sum(a * layer[i] for a, layer in zip(attention, teacher, strict=True))
            expected[i] += kd(one[i], target, 2.0) / STUDENT_LAYERS
    torch.testing.assert_close(term(found), expected)


def test_with_the_attention_s_gradient_it_is_the_gradient_of_finite_differences():
    term, found = given(3, attention_gradient=True)
    leaves = [found.student_layers, *term.module.parameters()]
    gradients = torch.autograd.grad(term(found).sum(), leaves)
    for k, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        direction = normal(*gradient.shape, seed=k)
        values = []
        for sign in (1, -1, 0):
            with torch.no_grad():
                leaf.add_(direction, alpha={1: 2e-3, -1: -4e-3, 0: 2e-3}[sign])
                values.append(float(term(found).sum()))
        slope = (values[0] - values[1]) / 4e-3
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02, abs=2e-3)


def test_without_it_the_attention_is_held_still():
    term, found = given(3, attention_gradient=False)
    student, teacher = (torch.stack(logits) for logits in pseudo_logits(term, found))
    attention = torch.einsum("mbc,nbc->mbn", student, teacher).softmax(-1).detach()
    fixed = kd(student, torch.einsum("mbn,nbc->mbc", attention, teacher), 2.0).mean(0).sum()
    expected = torch.autograd.grad(fixed, found.student_layers)
    torch.testing.assert_close(torch.autograd.grad(term(found).sum(), found.student_layers), expected)


def test_several_teachers_are_averaged():
    fit = rows(teachers=2, **{LAYERS: normal(ROWS, 3, HIDDEN, seed=4)})
    alone, found = given(3)
    together = make("layer_kd", fit)
    torch.testing.assert_close(together(inputs(fit, student_layers=found.student_layers)), alone(found))


def test_only_the_student_s_pseudo_classifiers_learn():
    term, _ = given(2)
    assert {name for name, _ in term.module.named_parameters()} == {"weight", "bias"}
    assert term.learning_rate_scale == 10.0


def test_probes_end_where_the_gradient_of_the_penalised_cross_entropy_vanishes():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(80, 2, HIDDEN)).astype(np.float32) * [1, 10, 0.1, 1, 1] + 3
    labels = (hidden[:, 0, 0] > 3).astype(np.int64) + (hidden[:, 0, 3] > 3.5)
    weights, biases = fit_probes(
        CachedRows(hidden.astype(np.float32), np.arange(80)),
        labels,
        CLASSES,
        rows=1000,
        l2=1e-2,
        seed=0,
        device=torch.device("cpu"),
    )
    inputs_ = torch.from_numpy(hidden).double()
    scale = inputs_.std(0, correction=0)
    for layer in range(2):
        standard = ((inputs_ - inputs_.mean(0)) / scale)[:, layer]
        weight = (weights[layer] * scale[layer]).double().requires_grad_()
        bias = (biases[layer] + weights[layer] @ inputs_.mean(0)[layer].float()).double().requires_grad_()
        loss = F.cross_entropy(standard @ weight.T + bias, torch.from_numpy(labels)) + 5e-3 * weight.square().sum()
        for gradient in torch.autograd.grad(loss, [weight, bias]):
            assert gradient.abs().max() < 1e-3
