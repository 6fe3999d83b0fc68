"""The harness's own training of a student, and the same training by hand with the library: the same start, rows and order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from harness.data.batches import LengthBucketedBatches
from harness.data.labelled_rows import LabelledRows
from harness.library import StrategyLoss, rows_from_features
from harness.models.build import build_model
from harness.ranks import Single
from harness.records import TrialSpec
from harness.seeds import derive_seed
from harness.training.trial import make_training
from harness.training.weighting import WeightedLoss
from tests.harness.tiny import STUDENT, TEACHER, VARIED, default_specs, tiny_study

Step = dict[str, Any]


def spec_of(strategy: str, cache: Path, teachers: int = 1, epochs: int = 2, dropout: float = 0.1) -> TrialSpec:
    """A few short epochs of a one-layer student."""
    recipe = {"epochs": 1, "learning_rate": 1e-3}
    models = {
        "student": {"config": {**STUDENT, **VARIED}, "dropout": dropout},
        "teachers": [{"name": f"t{k}", "config": TEACHER, "seed": k, "training": recipe} for k in range(teachers)],
    }
    training = {"epochs": epochs, "batch_size": 16, "learning_rate": 1e-3, "meta_batch_size": 8}
    study = tiny_study(strategies=[strategy], models=models, training=training)
    (spec,) = default_specs(study, cache)
    return spec


class Beside:
    """What the harness makes of a trial's specification, as a user of the library would have it."""

    def __init__(self, spec: TrialSpec, cache: Path) -> None:
        self.spec = spec
        made = make_training(spec, cache, Single(), torch.device("cpu"))
        self.training = made.training
        self.tokenizer = made.encoder.tokenizer
        self.epochs, self.total_steps = spec.training.epochs, made.training.total_steps
        fit, meta = made.training.fit, made.training.weighting.meta
        self.data, self.train_rows = self._rows(fit)
        self.meta = None if meta is None else self._rows(meta)[1]
        self.model: Any = build_model(spec.student, 2, spec.seeds.student, made.encoder.vocabulary)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": spec.training.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=spec.training.learning_rate, fused=True)
        rate = made.training.learning_rate
        self.scheduler = LambdaLR(
            self.optimizer, lambda step: rate(min(step, self.total_steps - 1)) / spec.training.learning_rate
        )

    @property
    def options(self) -> dict[str, Any]:
        """Of `StrategyLoss` and `StrategyTrainer` alike."""
        training = self.spec.training
        return {
            "train_rows": self.train_rows,
            "meta": self.meta,
            "settings": self.spec.settings,
            "temperature": training.temperature,
            "meta_batch_size": training.meta_batch_size,
            "meta_order_seed": self.spec.seeds.order,
        }

    def loss(self, **more: Any) -> StrategyLoss:
        options = {**self.options, "seed": self.spec.seeds.strategy, "optimizer": self.optimizer, **more}
        return StrategyLoss(self.spec.strategy, self.model, total_steps=self.total_steps, epochs=self.epochs, **options)

    def of_harness(self) -> list[Step]:
        """Every step of the harness's own training."""
        steps: list[Step] = []
        weigh = self.training.weighting.loss

        def noting(*given: Any) -> WeightedLoss:
            found = weigh(*given)
            steps.append(step_of(found))
            return found

        self.training.weighting.loss = noting  # type: ignore[method-assign]
        self.training.run()
        return steps

    def by_hand(self, loss: StrategyLoss, first: int = 0, last: int | None = None) -> list[Step]:
        """The steps `first` to before `last`."""
        steps: list[Step] = []
        self.model.train()
        number = 0
        for epoch in range(self.epochs):
            self.seed_dropout(epoch)
            for batch in self.loader(epoch):
                number += 1
                if number <= first or (last is not None and number > last):
                    continue
                ids, labels = batch.pop("id"), batch.pop("labels")
                value, _ = loss.run(batch, ids, labels, self.scheduler.get_last_lr()[0])
                value.backward()  # type: ignore[no-untyped-call]
                assert loss.last is not None
                steps.append(step_of(loss.last))
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.training.clip_norm)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad(set_to_none=True)
                loss.after_step()
                if number == (epoch + 1) * self.total_steps // self.epochs:
                    loss.end_epoch()
        return steps

    def seed_dropout(self, epoch: int) -> None:
        torch.manual_seed(derive_seed(self.spec.seeds.dropout, epoch, 0))

    def loader(self, epoch: int | None = None) -> DataLoader[Any]:
        """Batches as the harness has them; of each epoch in turn where none is given."""
        sampler: Any = Batches(self, epoch)
        return DataLoader(self.data, batch_sampler=sampler, collate_fn=self.collate, generator=torch.Generator())  # type: ignore[arg-type]

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        given = [{name: row[name] for name in ("input_ids", "token_type_ids")} for row in rows]
        found = self.tokenizer.pad(given, return_tensors="pt")
        return {**found, **{name: torch.tensor([row[name] for row in rows]) for name in ("id", "labels")}}

    def _rows(self, rows: LabelledRows) -> tuple[list[dict[str, Any]], LabelledRows]:
        encoded = rows.encoded
        assert encoded.segments is not None
        data = []
        for row, (start, length) in enumerate(zip(encoded.starts, encoded.lengths, strict=True)):
            tokens = slice(start, start + length)
            inputs = {"input_ids": encoded.tokens[tokens].tolist(), "token_type_ids": encoded.segments[tokens].tolist()}
            data.append({"id": int(encoded.ids[row]), "labels": int(encoded.labels[row]), **inputs})
        return data, rows_from_features(data, rows.teacher_logits, self.tokenizer)


class Batches:
    """A batch sampler with the harness's batches."""

    def __init__(self, beside: Beside, epoch: int | None) -> None:
        spec = beside.spec
        self._batches = LengthBucketedBatches(beside.train_rows.encoded.lengths, spec.training.batch_size, spec.seeds.order)
        self._epoch = epoch
        self._next = 0

    def set_epoch(self, epoch: int) -> None:
        self._next = epoch

    def __len__(self) -> int:
        return len(self._batches.epoch(0))

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self._next if self._epoch is None else self._epoch
        self._next = epoch + 1
        yield from (rows.tolist() for rows in self._batches.epoch(epoch))


def step_of(found: WeightedLoss) -> Step:
    return {
        "loss": found.loss.detach().clone(),
        "ids": found.context.ids.clone(),
        "terms": {name: values.clone() for name, values in found.terms.items()},
        "weights": {name: values.clone() for name, values in found.weights.items()},
    }


def assert_same(ours: list[Step], theirs: list[Step], of_weights: float = 1e-5) -> None:
    """Of every step: ids, loss, terms and weights, up to the rounding that another order of sums makes."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one["ids"].tolist() == other["ids"].tolist()
        torch.testing.assert_close(one["loss"], other["loss"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one["terms"], other["terms"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one["weights"], other["weights"], rtol=10 * of_weights, atol=of_weights)
