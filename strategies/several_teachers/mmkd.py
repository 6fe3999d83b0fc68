"""MMKD: a network from all logits to teacher weights, trained through the student's look-ahead on hard rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Setup, Weights
from strategies.lazy import torch
from strategies.parts.hard_rows import HardRows
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import MetaNetwork, feed_forward, meta_objective
from strategies.parts.several_teachers import PaperScaled, PaperScaleSettings, centred, needs_teachers, scaled
from strategies.registry import register
from strategies.space import FloatRange

KD_STEPS = 2


class MMKDSettings(LookAheadSettings, PaperScaleSettings):
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """Of the network's Adam."""
    weight_decay: float = Field(1e-4, ge=0.0)
    """Of the network's Adam."""
    interval: int = Field(5, ge=1)
    """Update the network every so many steps."""
    buffer_size: int = Field(256, ge=2)
    """So many training rows are kept that the student last got wrong; a batch of them is drawn for each update."""

    search_space = {
        **PaperScaleSettings.search_space,
        "meta_learning_rate": FloatRange(low=1e-4, high=1e-2, log=True),
    }


@register
class MMKD(PaperScaled[MMKDSettings]):
    """w[., i] = softmax over teachers of MLP([all teachers' logits of i; the student's]), one hidden layer of half the inputs.

    The network follows the student's cross-entropy on hard training rows after three steps on these rows: two of SGD on
    sum_k w[k, i] kd_each[k, i], and one on cross-entropy (`train_meta.py` of Rorozhl/MMKD with --hard_buffer, the command of
    its README). The student is then put back to where it was: --rollback is on there by default and cannot be turned off. The
    network's last layer starts at 0: equal weights. Logits are taken without their mean over classes, which means nothing.

    Differs: the three steps are taken as one, without momentum and decay, because that is equal to first order and costs a
    third; the network is updated before the student's step, because weights are asked for then, and its gradient is clipped to
    a norm of 1; no term on intermediate features, because strategies among teachers weigh their outputs alone.
    """

    name = "mmkd"
    family = "several teachers"
    summary = "a network maps all logits to teacher weights, trained on rows that the student gets wrong"
    paper = (
        "Zhang et al., Adaptive Multi-Teacher Knowledge Distillation with Meta-Learning, ICME 2023, arXiv 2306.06634, and the "
        "authors' code"
    )
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    reconstruction = (
        "The three steps are taken as one, with the weights of where the student stands, without momentum and decay: equal to "
        "first order in the learning rate, which for fine-tuning is small. Rows enter the buffer and the network is updated "
        "before the student's step, theirs after it. The network's gradient is clipped to a norm of 1. The term on "
        "intermediate features is left out."
    )
    Settings = MMKDSettings

    def __init__(self, settings: MMKDSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        teachers = len(setup.teachers)
        inputs = (teachers + 1) * setup.classes
        network = feed_forward(inputs, (inputs // 2,), teachers, setup.seed, setup.device)
        self.meta_learner = MetaNetwork(network, settings.meta_learning_rate, weight_decay=settings.weight_decay)
        self.hard = HardRows(settings.buffer_size)
        self._order = setup.fit.ids.argsort()

    @classmethod
    def needs(cls, settings: MMKDSettings) -> Needs:
        return needs_teachers(
            look_ahead=settings.engine, look_ahead_rows="fit", look_ahead_options=settings.step_options, replay=True
        )

    def weights(self, context: Context) -> Weights:
        self.hard.add(context.ids, context.student_logits.argmax(-1) != context.labels, context.generator)
        if context.step % self.settings.interval == 0 and len(context.teacher_logits) > 1:
            self._update(context)
        with torch.no_grad():
            return scaled(self._shares(context.teacher_logits, context.student_logits), self.settings)

    def _shares(self, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
        """[teachers, rows], with sums of 1 over teachers."""
        inputs = torch.cat([*centred(teacher_logits), centred(student_logits)], -1)
        shares: torch.Tensor = self.meta_learner.network(inputs).softmax(-1).T
        return shares

    def _update(self, context: Context) -> None:
        assert context.replay is not None
        assert context.look_ahead is not None
        ids = self.hard.draw(len(context.ids), context.generator)
        fit = self.setup.fit
        teacher_logits = fit.teacher_logits[:, self._order[torch.searchsorted(fit.ids[self._order], ids)]]
        shares = self._shares(teacher_logits.to(context.student_logits.device), context.replay(ids))
        steps = {"ce": torch.ones_like(shares[0]), "kd_each": KD_STEPS * shares.detach()}
        influence = context.look_ahead(steps, ids)
        self.meta_learner.descend(meta_objective(influence, {"kd_each": shares}))

    def state_dict(self) -> dict[str, Any]:
        return {"meta_learner": self.meta_learner.state_dict(), "hard": self.hard.ids.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meta_learner.load_state_dict(state["meta_learner"])
        self.hard.ids = state["hard"].cpu().clone()
