"""The `data` section of a study file: where rows come from, and how many of them have which role."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.study.section import Section
from harness.study.tasks import check_splits

VALIDATION, SURPLUS = "validation", "train_surplus"
"""Report splits that scores in tables may be of."""


class GeneratedSpec(Section):
    """The generated tasks (source: generated)."""

    first_fields = frozenset({"train_rows", "report_rows", "flipped"})

    train_rows: int = Field(2000, ge=40)
    report_rows: int = Field(500, ge=20)
    flipped: float = Field(0.0, ge=0.0, lt=0.5)
    """Share of training labels that are planted wrong. The mask is kept for analysis."""
    rules: Literal["plain", "graded"] = "plain"
    """plain: few words and sharp rules. graded: many words, and labels drawn with the probability that the text says, so that
    who has seen more rows (`data.teacher_rows`) knows more."""


class DataSpec(Section):
    first_fields = frozenset(
        {"source", "path", "hub_name", "hub_revision", "broken_rows", "train_rows", "teacher_rows", "report_rows", "max_length"}
        | {"select_fraction", "select_rows_at_most", "meta_fraction", "meta_rows_at_most", "label_noise", "seed", "generated"}
    )

    source: Literal["hub", "directory", "generated"] = "hub"
    """generated: from a grammar for each of GLUE's tasks; and texts about topics for a task of your own that has one column of
    `text`, any number of `labels`, and no `files`."""
    dataset: str | None = None
    """Any text-classification data set of the hub (or a folder, relative to the study file) instead of GLUE: OWNER/NAME. The
    task has a name of its own, and `text`, `label` and `labels` where they are not to be found."""
    config: str | None = None
    """Of `dataset`, where it has several."""
    splits: dict[str, str] = {}
    """Our `train`, `validation` and further report splits -> the splits of `dataset`, e.g. `validation: test`, also a part such
    as `train[:90%]`. Found where not given: `train`, and the first there is of validation, valid, dev, test."""
    path: str | None = None
    """For `directory`: the folder with one folder per task (relative to the working directory)."""
    hub_name: str = "nyu-mll/glue"
    hub_revision: str | None = None
    broken_rows: Literal["refuse", "drop"] = "refuse"
    """What to do with a line of a TSV or CSV file that has too few or too many fields (GLUE's own QQP/train.tsv has some), and
    with a row of `dataset` that has no label (-1 or none)."""
    train_rows: int | None = Field(None, ge=20)
    """Row cap: a seeded, stratified sample of the training split, before roles are cut."""
    teacher_rows: int = Field(0, ge=0)
    """Teachers train on `fit` and at most so many of the rows that the cap `train_rows` leaves out, which no student sees."""
    report_rows: int | None = Field(None, ge=10)
    """Row cap of each report split."""
    report_from_train: int = Field(0, ge=0)
    """Report on so many rows of train that `train_rows` leaves out and no teacher trains on (the report split `train_surplus`),
    where the validation split is too small to show a difference. Its scores are shown beside."""
    max_length: int = Field(128, ge=8)
    """Longest token sequence; longer pairs are truncated longest-first."""
    select_fraction: float = Field(0.1, gt=0.0, lt=0.5)
    select_rows_at_most: int = Field(2000, ge=1)
    meta_fraction: float = Field(0.1, gt=0.0, lt=0.5)
    meta_rows_at_most: int = Field(2000, ge=1)
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of labels that are flipped to another class, of `fit` and of the teachers' own rows. The mask is kept for analysis,
    never shown to a strategy."""
    seed: int = 0
    """For row caps, roles, generated text and label noise. The same for all repeats."""
    generated: GeneratedSpec = GeneratedSpec()

    @property
    def headline_split(self) -> str:
        """The report split that scores in tables are of."""
        return SURPLUS if self.report_from_train else VALIDATION

    @model_validator(mode="after")
    def _hub(self) -> DataSpec:
        given = [name for name in ("dataset", "config", "splits") if getattr(self, name)]
        if given and self.source != "hub":
            raise ValueError(f"`{given[0]}` is for rows of the hub, and source is {self.source!r}; leave one of them out")
        if given and self.dataset is None:
            raise ValueError(f"`{given[0]}` says which part of `dataset` is meant, and that is missing: dataset: OWNER/NAME")
        if self.splits:
            check_splits("splits", self.splits)
        return self
