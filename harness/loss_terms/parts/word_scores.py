"""How much each word of the training texts counts, by numbers of occurrences. Words are the student's tokens."""

from __future__ import annotations

import numpy as np

from harness.data.encode import Encoded


def occurrences(rows: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Row and word of every word of the texts, both int64: the tokens around texts are no words."""
    row = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    word = np.asarray(rows.tokens, dtype=np.int64)
    kept = ~np.isin(word, rows.special_tokens)
    return row[kept], word[kept]


def frequency(rows: Encoded, vocabulary: int, base: int = 8) -> np.ndarray:
    """[vocabulary]: number of occurrences of each word, plus `base`, so that rare words keep some weight.

    `base` is 8 in the authors' runs on language modelling and SST (`tasks/lm/get_tfidf.py`, `tasks/sst/get_tfidf.py`).
    """
    return np.bincount(occurrences(rows)[1], minlength=vocabulary) + float(base)


def tf_idf(rows: Encoded, vocabulary: int, alpha: float = 0.0, beta: float = 0.1) -> np.ndarray:
    """[vocabulary]: tf * idf + 1 / N over the N rows (`tools/compute_tfidf.py` in etri-edgeai/nn-comp-discblock).

    tf_w = alpha + beta / N * sum_d count(w, d) / max_v count(v, d), idf_w = max(log(N / (df_w + 1)), 0) + 1, where df counts
    the rows with the word, from 1. alpha and beta are those of the authors' runs (`tasks/*/get_tfidf.py`, and the score files
    that their experiments name): frequent words count more. The function's defaults there, 0.5 and 0.25, are used by none of
    them and turn the order round, as alpha * idf then outweighs the rest.
    """
    row, word = occurrences(rows)
    n = len(rows.lengths)
    pairs, counts = np.unique(row * vocabulary + word, return_counts=True)
    pair_row, pair_word = pairs // vocabulary, pairs % vocabulary
    largest = np.zeros(n)
    np.maximum.at(largest, pair_row, counts)
    tf = alpha + beta / n * np.bincount(pair_word, counts / largest[pair_row], minlength=vocabulary)
    df = 1 + np.bincount(pair_word, minlength=vocabulary)
    idf = np.maximum(np.log(n / (df + 1)), 0) + 1
    return np.asarray(tf * idf + 1 / n)


def mean_row_score(rows: Encoded, scores: np.ndarray) -> float:
    """Mean over rows of the mean score of a row's words, over the rows that have words."""
    row, word = occurrences(rows)
    words = np.bincount(row, minlength=len(rows.lengths))
    sums = np.bincount(row, scores[word], minlength=len(rows.lengths))
    return float((sums[words > 0] / words[words > 0]).mean()) if (words > 0).any() else 1.0
