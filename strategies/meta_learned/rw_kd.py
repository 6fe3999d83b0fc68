"""RW-KD: a meta-learner re-weights both losses of every sample while the student trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, Field

from strategies.base import Context, Cost, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import MetaNetwork, feed_forward
from strategies.parts.probabilities import (
    entropy,
    student_cross_entropy,
    student_probabilities,
    teacher_cross_entropy,
    teacher_probabilities,
    teacher_right,
)
from strategies.parts.state import RunningStandardisation, SampleMemory
from strategies.registry import register
from strategies.space import Choice, FloatRange, IntRange

FEATURES = 6


class RwKdSettings(LookAheadSettings):
    reading: Literal["network", "per_sample"] = Field("network", validation_alias=AliasChoices("reading", "meta_learner"))
    """How the paper is read (before: `meta_learner`, a name that still is taken). network: a small network maps a sample's
    losses and uncertainties to its two weights, and is trained through the student's look-ahead step (Meta-Weight-Net style);
    ours, no published program of RW-KD has a network. per_sample: no network; in each step, each term's weight is its own
    influence on the meta loss (L2RW style), as in Selective-KD's program."""
    hidden_size: int = Field(100, ge=1)
    """network: units of its hidden layer."""
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """network: learning rate of its Adam."""
    interval: int = Field(1, ge=1)
    """Look ahead every so many steps. Between: network: its weights for the present sample, without an update; per_sample: the
    sample's last weights, or 0.5 each where it had none."""
    meta_kd_weight: float | None = Field(None, ge=0.0)
    """Weight of the KD term in the meta loss, beside 1 for cross-entropy. Not given: what each reading's source does, 0 for
    network and 1 for per_sample."""
    look_ahead_rate: float | None = Field(None, gt=0.0)
    """network, with `look_ahead: sgd`: step size of the look-ahead; the student's current learning rate where not given."""
    look_ahead_layers: int | None = Field(None, ge=1)
    """Take the meta gradient over the classifier and this many last layers only; all parameters where not given. 1 of 3 layers
    is the cheap setting: a step takes at most 1.5 times a plain one, and the cosine to the whole meta gradient is 0.75 to 0.99
    (MiniLM on MRPC and SST-2)."""
    meta_precision: Literal["training", "fp32", "bf16"] = "training"
    """Precision of the meta gradient alone: the training's, or another. With bf16 the influences keep a cosine above 0.9999 to
    the exact ones; it is faster on GPUs, and on CPUs that compute in bf16."""
    shortest_look_ahead: float = Field(3e-4, ge=0.0)
    """network: a look-ahead step whose size is below this is not taken: the meta gradient is taken where the student stands,
    which saves a forward and a backward pass and changes nothing (cosine above 0.9999 at 2e-4). 0: it is always taken, as it is
    by `look_ahead: adamw`."""
    precondition: Literal["none", "adam"] = "none"
    """adam: each entry of the meta gradient over its root mean square in the student's Adam, without moments or decay. An
    approximation of `look_ahead: adamw`, and not to be had with it."""
    floor: float = Field(1e-6, gt=0.0, lt=1.0)
    """per_sample: influences are raised to this share of the batch's largest. (A fixed floor would pin the weights at 0.5 late
    in training, when all influences are small.)"""
    smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of a sample's previous weights in its new ones, over its visits. 0: no memory."""

    search_space = {
        "hidden_size": IntRange(low=16, high=256, log=True),
        "meta_learning_rate": FloatRange(low=1e-4, high=1e-2, log=True),
        "interval": Choice(values=[1, 2, 4]),
        "smoothing": Choice(values=[0.0, 0.5, 0.9]),
    }


@register
class RwKd(Strategy[RwKdSettings]):
    """L = mean_i [w_ce,i ce_i + w_kd,i kd_i], w_ce,i + w_kd,i = 1, set so that a step on it lowers the loss of a meta batch.

    With a[m, i] = <grad L_meta, grad term[m, i]> (`Context.look_ahead`):
    per_sample: w_m,i = u_m,i / (u_ce,i + u_kd,i), u = max(a, floor * max a): look-ahead from zero weights, as in
    `ugkd/methods/rwkd.py` of Selective-KD/Selective-KD (which cites the paper's algorithm 1), whose floor is 1e-8 whatever the
    size of a. network: w_i = softmax(network(features_i)); its phi follows -(eta / batch) sum a[m, i] dw[m, i]/dphi, L_meta
    taken after the student's step on the weighted loss; the weights are computed again after the update. It starts at 0.5.

    The look-ahead is an SGD step in both readings by default, while the student steps with AdamW; `look_ahead: adamw` is the
    step that follows.

    Differs: how far is not known, because the paper's full text was not available and no code was published; both readings are
    given.
    """

    name = "rw_kd"
    family = "meta-learned"
    summary = "a meta-learner, trained with the student, weighs cross-entropy and KD of every sample"
    paper = (
        "Lu et al., RW-KD: Sample-wise Loss Terms Re-Weighting for Knowledge Distillation, Findings of EMNLP 2021, "
        "pp. 3145-3152"
    )
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The paper's full text was not available, and the authors published no code. Unknown: network or free weights, the "
        "network's inputs, the meta set, whether the meta loss has a KD part, models, temperature, learning rates. No later "
        "re-implementation that could be read has a network: Selective-KD weighs samples by influence (`per_sample` follows "
        "it; there KD is soft-label cross-entropy, here KL, with the same gradient), TGeo-KD's baseline trains one free "
        "weight a sample on the training loss (`free_alpha`). `network` is the standard formulation that fits the abstract, "
        "and ours; the closest published network is another method's (Nguyen et al., Balancing Knowledge Distillation for "
        "Imbalance Learning with Bilevel Optimization, PAKDD 2026, arXiv 2605.17839)."
    )
    Settings = RwKdSettings

    def __init__(self, settings: RwKdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        device = setup.device
        self.memory = SampleMemory(setup.fit.ids, 0.5, device)
        self.standardise = RunningStandardisation(FEATURES, device)
        network = feed_forward(FEATURES, (settings.hidden_size,), 2, setup.seed, device)
        self.meta_learner = MetaNetwork(network, settings.meta_learning_rate)

    @classmethod
    def needs(cls, settings: RwKdSettings) -> Needs:
        options: dict[str, Any] = {
            **settings.step_options,
            "meta_kd_weight": meta_kd_weight(settings),
            "shortest_step": settings.shortest_look_ahead,
            "meta_precision": settings.meta_precision,
        }
        if settings.look_ahead_rate is None:
            options["weights_at_most"] = 1.0
        if settings.look_ahead_layers is not None:
            options["layers"] = settings.look_ahead_layers
        if settings.precondition == "adam":
            options["precondition"] = "adam"
        return Needs(teachers=(1, None), look_ahead=settings.engine, look_ahead_options=options)

    @classmethod
    def refuses(cls, settings: RwKdSettings, classes: int) -> str | None:
        if settings.look_ahead_rate is not None and settings.look_ahead != "sgd":
            return (
                f"look_ahead_rate is {settings.look_ahead_rate}, and the step of look_ahead: {settings.look_ahead} has the "
                "student's own rate. Leave look_ahead_rate out, or choose look_ahead: sgd"
            )
        return None

    def weights(self, context: Context) -> Weights:
        by_network = self.settings.reading == "network"
        kd = self._by_network(context) if by_network else self._by_influence(context)
        return {"ce": 1 - kd, "kd": kd}

    def _by_network(self, context: Context) -> torch.Tensor:
        raw = features(context)
        self.standardise.update(raw)
        inputs = self.standardise(raw)

        def weigh() -> dict[str, torch.Tensor]:
            ce, kd = self.meta_learner.network(inputs).softmax(-1).unbind(-1)
            return {"ce": ce, "kd": kd}

        update = context.step % self.settings.interval == 0
        rate = self.settings.look_ahead_rate
        scale = 1.0 if rate is None else rate / context.learning_rate
        kd = self.meta_learner.weights(weigh, context, update=update, step_scale=scale)["kd"]
        return self.memory.average(context.ids, kd, self.settings.smoothing) if self.settings.smoothing else kd

    def _by_influence(self, context: Context) -> torch.Tensor:
        if context.step % self.settings.interval != 0:
            return self.memory[context.ids]
        assert context.look_ahead is not None
        even = None if self.settings.look_ahead == "sgd" else {"ce": 0.5, "kd": 0.5}  # around which AdamW's step is taken
        influence = context.look_ahead(even)
        kd = share_of_kd(influence["ce"], influence["kd"], self.settings.floor)
        return self.memory.average(context.ids, kd, self.settings.smoothing)

    def state_dict(self) -> dict[str, Any]:
        return {
            "memory": self.memory.state_dict(),
            "standardise": self.standardise.state_dict(),
            "meta_learner": self.meta_learner.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self.standardise.load_state_dict(state["standardise"])
        self.meta_learner.load_state_dict(state["meta_learner"])


def meta_kd_weight(settings: RwKdSettings) -> float:
    """Weight of the KD term in the meta loss."""
    if settings.meta_kd_weight is not None:
        return settings.meta_kd_weight
    return 0.0 if settings.reading == "network" else 1.0


def share_of_kd(ce: torch.Tensor, kd: torch.Tensor, floor: float) -> torch.Tensor:
    """[batch]: u_kd / (u_ce + u_kd) with u = max(influence, floor * the batch's largest); 0.5 where both are floored."""
    largest = torch.maximum(ce.max(), kd.max())
    largest = torch.where(largest > 0, largest, 1.0)  # where none is positive, all are floored
    u_ce, u_kd = (a / largest for a in (ce, kd))  # scaled first: no influence is too small for float32
    u_ce, u_kd = u_ce.clamp_min(floor), u_kd.clamp_min(floor)
    return u_kd / (u_ce + u_kd)


def features(context: Context) -> torch.Tensor:
    """[batch, FEATURES]: student's and teacher's cross-entropy, KD, both entropies, and whether the teacher is right."""
    columns = (
        student_cross_entropy(context),
        teacher_cross_entropy(context),
        context.terms["kd"],
        entropy(student_probabilities(context)),
        entropy(teacher_probabilities(context)),
        teacher_right(context).float(),
    )
    return torch.stack(columns, dim=-1)
