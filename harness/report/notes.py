"""What a person reads out of a study: words in the store's `notes.md.jinja`, figures from the store.

    Plain KD is above labels alone by {{ versus("fixed_alpha", "ce_only") }} points.

A template may ask for the figures that `Notes` has as methods, and for nothing else.
"""

from __future__ import annotations

import difflib
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.report.cells import estimate, number, p_value, signed
from harness.report.compare import Side, compare_sides
from harness.report.leaderboard import Leaderboard
from harness.report.predictions import load_predictions
from harness.report.sampled import Sampled, data_sets, sample_predictions
from harness.report.verdicts import Comparison, judge
from harness.stats.bootstrap import draws_for

FILE = "notes.md.jinja"


def render_notes(board: Leaderboard, folder: Path) -> str:
    """The notes with their figures; empty where the store has none. Raises UserError for one that cannot be rendered."""
    file = folder / FILE
    if not file.is_file():
        return ""
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = file.read_text("utf-8")
    notes = Notes(board, text)
    figures = {name: getattr(notes, name) for name in dir(notes) if not name.startswith("_")}
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    try:
        return environment.from_string(text).render(**figures).strip()
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {error}. It may use {', '.join(figures)}") from error


class Notes:
    """Figures by name, as text; points, but for every p, `passes`, `auroc` and `weight`. An unknown name raises ValueError."""

    def __init__(self, board: Leaderboard, text: str | None = None) -> None:
        """`text`: that they are for; where not given, any label may be asked for."""
        self._board = board
        self._named = tuple(label for label in board.selection.labels if text is None or label in text)
        self._pair = cache(self._compared)

    def gain(self, label: str) -> str:
        """Over plain KD, mean over tasks, with its interval."""
        return estimate(self._board.gain, self._label(label), 100, sign=True)

    def p(self, label: str) -> str:
        """Of that gain: corrected for the primary family; of what is not in it, by this comparison alone."""
        found = self._board.comparisons[self._label(label)]
        if found is None:
            raise ValueError(f"{label} is compared with itself")
        return p_value(found.p if self._board.in_primary(found.first) else found.alone)

    def verdict(self, label: str) -> str:
        """Against plain KD, in words."""
        return self._board.verdict(self._label(label))

    def versus(self, first: str, second: str, *tasks: str) -> str:
        """First minus second, mean over tasks, as `harness compare` has it; over these tasks, where some are given."""
        found = self._pair(first, second, *tasks)
        return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"

    def versus_p(self, first: str, second: str, *tasks: str) -> str:
        """Of this comparison alone."""
        return p_value(self._pair(first, second, *tasks).p)

    def detectable(self, first: str, second: str, *tasks: str) -> str:
        """The difference over tasks that four of five such studies would have seen."""
        return number(100 * self._pair(first, second, *tasks).detectable)

    def score(self, label: str, task: str) -> str:
        return number(100 * float(self._board.task_mean[self._label(label), self._task(task)]))

    def difference(self, first: str, second: str, *tasks: str) -> str:
        """First minus second, mean over these tasks, without an interval."""
        scores = self._board.task_mean[:, [self._task(task) for task in tasks]].mean(1)
        return signed(float(scores[self._label(first)] - scores[self._label(second)]))

    def teacher(self, task: str) -> str:
        return number(100 * float(self._board.teacher[self._task(task)]))

    def way(self, label: str) -> str:
        """Share of the way from labels alone to the teacher, %, mean over tasks."""
        return number(100 * float(self._board.normalised[self._label(label)]), 0)

    def passes(self, label: str) -> str:
        """Of plain KD's."""
        return number(float(self._board.costs.relative_passes[self._label(label)]), 2)

    def friedman_p(self) -> str:
        """Of the strategies' ranks over tasks."""
        ranking = self._board.ranking
        if ranking is None:
            raise ValueError("this store has no ranks")
        return p_value(ranking.friedman_p)

    def auroc(self, label: str, task: str) -> str:
        """With which a low weight on the label finds flipped labels in the last epoch; mean over repeats."""
        return self._last_epoch(label, task, "ce", "flipped_auroc")

    def weight(self, label: str, task: str, term: str) -> str:
        """Mean weight of a term over samples in the last epoch; mean over repeats."""
        return self._last_epoch(label, task, term, "mean")

    def _last_epoch(self, label: str, task: str, term: str, what: str) -> str:
        self._label(label), self._task(task)
        records = [row.record for row in self._board.selection.of(label, task) if row.record and row.record.epochs]
        found = [getattr(record.epochs[-1].weights[term], what) for record in records if term in record.epochs[-1].weights]
        found = [value for value in found if value is not None]
        if not found:
            raise ValueError(f"{label} has no logged {what} of {term} on {task}")
        return number(float(np.mean(found)), 2)

    def _compared(self, first: str, second: str, *tasks: str) -> Comparison:
        """As `harness compare`. The labels that the notes name are resampled once, for all of these comparisons."""
        self._label(first), self._label(second)
        selection = self._board.selection
        if self._sampled is not None and first in self._named and second in self._named:
            places = self._named.index(first), self._named.index(second)
            asked = [self._task(task) for task in tasks]
            inside = np.isin(range(len(selection.tasks)), asked) if asked else self._sampled.in_mean
            return judge(self._sampled.restricted(inside), [places], self._board.margin / 100)[0]
        if tasks:
            raise ValueError(f"{first} and {second} cannot be compared on {' '.join(tasks)} alone: runs are missing")
        found, left_out = compare_sides(Side(selection, first), Side(selection, second))
        if found is None or len(found.tasks) < len(selection.tasks):
            raise ValueError(f"{first} and {second} cannot be compared on all tasks: {' '.join(left_out)}")
        return found.over_tasks

    @cached_property
    def _sampled(self) -> Sampled | None:
        """None where something that is named lacks a run: then each pair is compared on what it has."""
        selection = self._board.selection
        predictions = {task: load_predictions(selection, task, self._named, probabilities=True) for task in selection.tasks}
        if any(found is None or not found.present.all() for found in predictions.values()):
            return None
        draws = draws_for(len(selection.tasks))
        samples = sample_predictions(predictions, draws)
        scores = selection.scores[[selection.labels.index(label) for label in self._named]]
        inside = self._board.admission.in_mean
        return Sampled(samples, scores, selection.tasks, data_sets(selection), inside, draws)

    def _label(self, name: str) -> int:
        return _place(name, self._board.selection.labels, "strategy")

    def _task(self, name: str) -> int:
        return _place(name, self._board.selection.tasks, "task")


def _place(name: str, names: tuple[str, ...], kind: str) -> int:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no {kind} {name!r} in this store{hint} There are {', '.join(names)}")
    return names.index(name)
