"""Self-paced learning: easy samples first."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.rounding import ROUNDING
from strategies.registry import register
from strategies.space import Choice, FloatRange


class SelfPacedSettings(Settings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Mixing weight of the KD term, also in the loss that says how easy a sample is."""
    start_share: float = Field(0.5, gt=0.0, le=1.0)
    """Share of each batch that counts at the start: the samples with the smallest loss."""
    all_from: float = Field(0.5, ge=0.0, le=1.0)
    """Progress from which all samples count; the share grows linearly until then."""
    form: Literal["hard", "soft"] = "hard"
    """hard: a sample counts or not. soft: max(0, 1 - loss / threshold)."""
    apply_to: Literal["both", "kd"] = "both"
    """Terms that are gated."""

    search_space = {
        "kd_weight": FloatRange(low=0.1, high=0.9),
        "start_share": FloatRange(low=0.2, high=0.9),
        "form": Choice(values=["hard", "soft"]),
    }


@register
class SelfPaced(Strategy[SelfPacedSettings]):
    """w_ce,i = (1 - kd_weight) v_i, w_kd,i = kd_weight v_i; v_i = 1 where the mixed loss is at most a quantile of its batch.

    The quantile grows with progress, until all samples count.

    Differs: the threshold is a quantile of the batch that grows with progress, because a fixed one that is annealed has no
    scale that fits all tasks; the loss is the mixture with KD, because the paper has no teacher.

    Claims: ce falls with student loss.
    """

    name = "self_paced"
    family = "sample-wise heuristic"
    summary = "samples with a small loss first, all of them later"
    paper = "Kumar, Packer & Koller, Self-Paced Learning for Latent Variable Models, NeurIPS 2010"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    reconstruction = "The threshold is a quantile of the batch that grows with progress; the paper anneals a fixed threshold."
    Settings = SelfPacedSettings

    @classmethod
    def warm_up(cls, settings: SelfPacedSettings, epochs: int) -> float:
        return settings.all_from * epochs

    @classmethod
    def needs(cls, settings: SelfPacedSettings) -> Needs:
        return Needs(teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        loss = (1 - settings.kd_weight) * context.terms["ce"] + settings.kd_weight * context.terms["kd"]
        chosen = self._chosen(loss, self.share(context.progress))
        ce = chosen if settings.apply_to == "both" else torch.ones_like(chosen)
        return {"ce": (1 - settings.kd_weight) * ce, "kd": settings.kd_weight * chosen}

    def share(self, progress: float) -> float:
        """Share of the batch that counts."""
        if progress >= self.settings.all_from:
            return 1.0
        return self.settings.start_share + (1 - self.settings.start_share) * progress / self.settings.all_from

    def _chosen(self, loss: torch.Tensor, share: float) -> torch.Tensor:
        threshold = loss.quantile(share)
        if self.settings.form == "hard":
            return (loss <= threshold + ROUNDING).float()
        return (1 - loss / threshold.clamp_min(1e-12)).clamp_min(0.0)
