"""Weighted soft labels as a convex mixture."""

from __future__ import annotations

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.heuristics.wsl import soft_label_weight
from strategies.registry import register


@register
class WslConvex(Strategy[Settings]):
    """L = mean_i [(1 - w_i) ce_i + w_i kd_i] with the weight of `wsl`. Another method than `wsl`, which only adds.

    Differs: w_i mixes both losses in the place of weighing KD alone, because the later paper's baseline has it so.

    Claims: kd rises with teacher agreement.
    """

    name = "wsl_convex"
    family = "sample-wise heuristic"
    summary = "WSL's weight as a sample's mixing weight"
    paper = "Zhou et al., ICLR 2021, arXiv 2102.00650, in the convex form of Hu et al. (TGeo-KD), ICLR 2024, arXiv 2312.15112"
    sample_wise = True
    normalisation = Normalisation.CONVEX

    def weights(self, context: Context) -> Weights:
        kd = soft_label_weight(context)
        return {"ce": 1 - kd, "kd": kd}
