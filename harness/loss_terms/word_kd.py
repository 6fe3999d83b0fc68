"""KD weighted by the importance of a sample's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.loss_terms.base import LossTerm, TermOptions, TermSetup
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs


class WordKdOptions(TermOptions):
    scores: Literal["uniform", "frequency", "tf_idf", "learned"] = "tf_idf"
    """What a word's importance is. uniform: plain KD."""
    learning_rate_scale: float = Field(100.0, gt=0.0)
    """Of learned importances, in learning rates of the student."""


@register_term
class WordKd(LossTerm[WordKdOptions]):
    """s_i kd_i, s_i the mean importance of the sample's words, scaled so that s averages 1 over the training rows.

    learned: exp(-u_i) kd_i + log(1 + exp u_i), u_i the mean of u_w over the sample's words, u trained with the student from 0:
    the words of samples that no student gets right come to count less. kd is the mean over teachers.
    """

    name = "word_kd"
    summary = "KD weighted by the importance of the sample's words"
    scales = "kd"
    Options = WordKdOptions

    def __init__(self, options: WordKdOptions, setup: TermSetup) -> None:
        super().__init__(options, setup)
        self.special = torch.tensor(setup.fit.encoded.special_tokens, dtype=torch.int64, device=setup.device)
        self.learning_rate_scale = options.learning_rate_scale
        self.module = torch.nn.Module()
        if options.scores == "learned":
            self.module.register_parameter("scores", torch.nn.Parameter(torch.zeros(setup.vocabulary)))
        else:
            self.module.register_buffer("scores", _scores(options.scores, setup))

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        from harness.loss_terms.logit_terms import kd

        assert inputs.batch is not None
        assert self.module is not None
        tokens = inputs.batch.inputs["input_ids"]
        words = inputs.batch.inputs["attention_mask"].bool() & ~torch.isin(tokens, self.special)
        number = words.sum(-1)
        scores = self.module.scores
        assert isinstance(scores, torch.Tensor)
        sums = torch.where(words, scores[tokens], 0.0).sum(-1)
        mean = sums / number.clamp_min(1)
        if self.options.scores == "learned":
            return kd(inputs) * torch.exp(-mean) + torch.nn.functional.softplus(mean)
        return kd(inputs) * torch.where(number > 0, mean, 1.0)


def _scores(kind: str, setup: TermSetup) -> torch.Tensor:
    import numpy as np

    from harness.loss_terms.parts import word_scores

    rows, vocabulary = setup.fit.encoded, setup.vocabulary
    if kind == "uniform":
        scores = np.ones(vocabulary)
    else:
        scores = word_scores.frequency(rows, vocabulary) if kind == "frequency" else word_scores.tf_idf(rows, vocabulary)
    return torch.from_numpy(scores / word_scores.mean_row_score(rows, scores)).float()
