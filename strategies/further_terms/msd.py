"""Modality-specific distillation, with the parts of a text as modalities."""

from __future__ import annotations

from typing import Literal

from strategies.base import Cost, Needs
from strategies.parts.fixed_weights import FixedWeights, FixedWeightSettings
from strategies.registry import register
from strategies.space import Choice


class MsdSettings(FixedWeightSettings):
    saliency: Literal["uniform", "population", "instance"] = "instance"
    """Weights of the parts: all alike, by their mean saliency over the training rows, or by each sample's own."""

    search_space = {**FixedWeightSettings.search_space, "saliency": Choice(values=["uniform", "population", "instance"])}


@register
class Msd(FixedWeights[MsdSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight kd_i + term_weight sum_m w[m, i] KD(x_i with part m alone)].

    The parts are the two texts of a pair, or the halves of a single one; w by how much the teacher's output changes without m.

    Differs: the two texts of a pair, or the halves of one, stand for image and text, because GLUE has no images; saliency is a
    KL divergence between the teacher's outputs with and without a part, because only the abstract could be read.
    """

    name = "msd"
    family = "further terms"
    summary = "CE, KD and KD on each part of the input alone, weighted by saliency"
    paper = (
        "Jin et al., MSD: Saliency-aware Knowledge Distillation for Multimodal Understanding, Findings of EMNLP 2021, "
        "arXiv 2101.01881"
    )
    reconstruction = (
        "Only the abstract could be read. The paper's modalities are image and text; on GLUE the two texts of a pair or the "
        "halves of a text take their place. Saliency as the KL divergence between the teacher's outputs with and without a "
        "part is a working definition."
    )
    cost = Cost.PARTS
    Settings = MsdSettings
    term = "part_kd"

    @classmethod
    def needs(cls, settings: MsdSettings) -> Needs:
        options = {"part_kd": {"saliency": settings.saliency}}
        return Needs(terms=("ce", "kd", "part_kd"), teachers=(1, None), term_options=options)
