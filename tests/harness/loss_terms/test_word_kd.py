"""Word scores from the training texts, and KD weighted by them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.loss_terms.logit_terms import kd
from harness.loss_terms.parts import word_scores
from tests.harness.loss_terms.given import LENGTHS, ROWS, SPECIAL, VOCABULARY, inputs, make, rows

FIT = rows()
START = FIT.encoded.starts
TEXTS = [[int(w) for w in FIT.encoded.tokens[s : s + n] if w not in SPECIAL] for s, n in zip(START, LENGTHS, strict=True)]


def test_uniform_scores_are_plain_kd():
    found = inputs(FIT)
    torch.testing.assert_close(make("word_kd", FIT, scores="uniform")(found), kd(found))


def test_frequency_counts_words_and_no_special_tokens():
    counts = Counter(word for text in TEXTS for word in text)
    assert word_scores.frequency(FIT.encoded, VOCABULARY).tolist() == [counts[w] + 8 for w in range(VOCABULARY)]


def test_tf_idf_against_its_formula():
    """With the constants of the authors' runs: alpha 0, beta 0.1."""
    found = word_scores.tf_idf(FIT.encoded, VOCABULARY)
    for word in range(VOCABULARY):
        tf = 0.0 + 0.1 * sum(Counter(t)[word] / max(Counter(t).values()) for t in TEXTS) / ROWS
        df = 1 + sum(word in text for text in TEXTS)
        idf = max(math.log(ROWS / (df + 1)), 0) + 1
        assert found[word] == pytest.approx(tf * idf + 1 / ROWS)


def test_words_of_more_rows_count_more():
    """The direction of the authors' scores on texts whose words are of different frequency: word w is in every w-th of 64 rows.

    The last rows hold one word more, so that no two words are in the same rows.
    """
    texts = [[word for word in range(1, 9) if row % word == 0] for row in range(64)]
    encoded = replace(
        FIT.encoded,
        tokens=np.concatenate(texts).astype(FIT.encoded.tokens.dtype),
        lengths=np.array([len(text) for text in texts]),
        starts=np.cumsum([0, *(len(text) for text in texts[:-1])]),
        special_tokens=(0,),
    )
    scores = word_scores.tf_idf(encoded, 9)[1:]
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize("scores", ["frequency", "tf_idf"])
def test_weights_average_one_over_the_training_rows(scores):
    found = inputs(FIT)
    weights = make("word_kd", FIT, scores=scores)(found) / kd(found)
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-5)
    table = getattr(word_scores, scores)(FIT.encoded, VOCABULARY)
    expected = torch.tensor([np.mean([table[w] for w in text]) for text in TEXTS])
    torch.testing.assert_close(weights, (expected / expected.mean()).float())


def test_learned_scores_start_as_plain_kd_and_find_the_noise_level_of_the_words():
    found = inputs(FIT)
    term = make("word_kd", FIT, scores="learned")
    (scores,) = term.module.parameters()
    torch.testing.assert_close(term(found), kd(found) + math.log(2))
    term(found).sum().backward()
    # d/du [exp(-u) kd + log(1 + exp u)] at 0 is 1/2 - kd, shared by the sample's words
    expected = torch.zeros(VOCABULARY)
    for text, value in zip(TEXTS, kd(found), strict=True):
        for word in text:
            expected[word] += (0.5 - value) / len(text)
    torch.testing.assert_close(scores.grad, expected)


def test_a_row_without_words_counts_as_plain_kd():
    found = inputs(FIT)
    found.batch.inputs["input_ids"][0] = 0
    assert make("word_kd", FIT)(found)[0] == kd(found)[0]
