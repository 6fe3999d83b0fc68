"""KD weighted by how important a sample's words are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Needs
from strategies.parts.fixed_weights import FixedWeights, FixedWeightSettings
from strategies.registry import register
from strategies.space import Choice


class WordImportanceSettings(FixedWeightSettings):
    kd_weight: float = Field(0.0, ge=0.0)
    """Weight of plain KD, beside the weighted one."""
    scores: Literal["uniform", "frequency", "tf_idf", "learned"] = "tf_idf"
    """A word's importance: the same for all (plain KD), its number of occurrences plus 8, TF-IDF, or learned with the
    student."""

    search_space = {
        "term_weight": FixedWeightSettings.search_space["term_weight"],
        "scores": Choice(values=["frequency", "tf_idf", "learned"]),
    }


@register
class WordImportance(FixedWeights[WordImportanceSettings]):
    """L = mean_i [ce_weight ce_i + term_weight s_i kd_i + kd_weight kd_i], s_i the mean importance of the sample's words.

    The importances lie in the loss term `word_kd`, so that other strategies can weigh it; s averages 1 over the training rows.

    Differs: word weights weigh samples in KD, because this is a transfer from the compression of embeddings; words are the
    student's tokens, because it has no others; a learned weight is a noise level a word, because there are no embedding
    dimensions to gate.

    Claims: word_kd rises with frequent words.
    """

    name = "word_importance"
    family = "further terms"
    summary = "CE and KD weighted by word importance: frequency, TF-IDF or learned"
    paper = (
        "Lee, Lee & Moon, Block-wise Word Embedding Compression Revisited: Better Weighting and Structuring, Findings of EMNLP "
        "2021 (word weights)"
    )
    reconstruction = (
        "The paper weighs words in the compression of embeddings; using its word weights for samples in KD is a transfer. "
        "Frequency and TF-IDF have the constants of the authors' runs (tasks/*/get_tfidf.py): frequent words count more. The "
        "paper's words are whole ones, here they are the student's tokens. Learned weights there are gates on embedding "
        "dimensions; here each word learns a noise level, as whole terms do in Kendall et al."
    )
    Settings = WordImportanceSettings
    term = "word_kd"

    @classmethod
    def needs(cls, settings: WordImportanceSettings) -> Needs:
        options = {"word_kd": {"scores": settings.scores}}
        return Needs(terms=("ce", "kd", "word_kd"), teachers=(1, None), term_options=options)
