"""What the page's script needs: plain lists, None where a figure is missing or withheld."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import TrialRecord
from harness.report.cells import coverage, rank, withheld
from harness.report.leaderboard import Leaderboard
from harness.report.plots.scores import forest_rows
from harness.report.plots.style import kind_of
from harness.report.plots.weights import flip_curves, histories, mean_quantiles, terms_of
from harness.report.sampled import Estimate
from harness.report.tables import detectable, task_headers
from harness.stats.measures import MEASURES
from strategies.registry import UnknownStrategyError, resolve

DIGITS = 8
"""So many that a figure rounds as in the tables: cut to six, 2.15002 points would be 2.1 here and 2.2 there."""


def page_data(board: Leaderboard) -> dict[str, Any]:
    """JSON-like; numbers rounded to DIGITS."""
    selection = board.selection
    tasks = [
        {"name": task, "header": header, "teacher": _number(board.teacher[t]), "detectable": detectable(board, t)}
        for t, (task, header) in enumerate(zip(selection.tasks, task_headers(board), strict=True))
    ]
    return {
        "tasks": tasks,
        "repeats": selection.repeats,
        "baseline": board.baseline,
        "margin": board.margin / 100,
        "strategies": [_strategy(board, i) for i in range(len(selection.labels))],
        "order": board.order,
        "measures": [
            {"name": name, "title": m.title, "hint": m.hint, "scale": m.scale, "digits": m.digits}
            for name, m in MEASURES.items()
            if name in board.measures
        ],
        "classes": [[task, k, name] for task, found in board.classes.items() for k, name in enumerate(found.names)],
        "noise": list(board.noise_gains),
        "one_device": len(board.costs.devices) <= 1,
        "curves": _curves(board),
        "forest": [[i, inside] for i, inside in forest_rows(board)] if board.baseline is not None else [],
        "results": results_folder(board),
        "trials": _table([_trial(record, board) for record in selection.records]),
    }


def _curves(board: Leaderboard) -> dict[str, Any]:
    """By place of the strategy, for those that have some, [epoch from 1, values ...]: mean score on `select`; of each term the
    quantiles 10, 25, 50, 75 and 90 % of the weights; AUROC of flipped labels, the mean over tasks and each task.
    """
    logged = {i: found for i in range(len(board.selection.labels)) if (found := histories(board, i))}
    terms = terms_of([one for found in logged.values() for one in found])
    weights: dict[int, dict[str, list[list[float | None]]]] = {}
    for i, found in logged.items():
        for term in terms:
            epochs, quantiles = mean_quantiles(found, term)
            if len(epochs):
                lines = [[int(x), *(_number(q, 4) for q in row[1:6])] for x, row in zip(epochs, quantiles, strict=True)]
                weights.setdefault(i, {})[term] = lines
    flips = {}
    for i, tasks in flip_curves(board).items():
        each = [[(x, float(np.mean(curve[x]))) for x in sorted(curve)] for curve in tasks.values()]
        by_epoch: dict[int, list[float]] = {}
        for x, y in (pair for line in each for pair in line):
            by_epoch.setdefault(x, []).append(y)
        together = [(x, float(np.mean(by_epoch[x]))) for x in sorted(by_epoch)]
        rounded = [[[x, _number(y, 4)] for x, y in line] for line in [together, *each]]
        flips[i] = {"mean": rounded[0], "tasks": rounded[1:]}
    return {"terms": terms, "learning": _learning(board), "weights": weights, "flips": flips}


def _learning(board: Leaderboard) -> dict[int, list[list[float | None]]]:
    """Mean over tasks and repeats of the chosen trials, of the epochs that all of them reached; two or more."""
    made = {}
    for i, label in enumerate(board.selection.labels):
        records = [row.record for row in board.selection.of(label) if row.record is not None and row.record.epochs]
        reached = min((len(record.epochs) for record in records), default=0)
        if reached > 1:
            scores = [[r.epochs[k].select.get(r.spec.task.headline_metric, math.nan) for r in records] for k in range(reached)]
            means = np.array(scores).mean(1)
            if np.isfinite(means).all():
                made[i] = [[k + 1, _number(mean, 4)] for k, mean in enumerate(means)]
    return made


def results_folder(board: Leaderboard) -> str:
    """As a command from the project's folder would name the store."""
    study = board.selection.manifest.get("study", {})
    name = str(study.get("name") or board.selection.path.name)
    return (Path(study.get("results", "results")) / name).as_posix()


def reproducing_command(board: Leaderboard, key: str) -> str:
    return f"python -m harness reproduce {results_folder(board)} {key}"


def _strategy(board: Leaderboard, i: int) -> dict[str, Any]:
    selection = board.selection
    label = selection.labels[i]
    tasks = range(len(selection.tasks))
    costs = board.costs
    one = board.comparisons[i]
    control = next((found.words for found in board.controls if found.label == label), "")
    average = {
        "mean": _estimate(board.mean_score, i),
        "gain": _estimate(board.gain, i) if i != board.baseline else None,
        "gain_weighted": _estimate(board.gain_weighted, i) if i != board.baseline else None,
        "normalised": _number(board.normalised[i]),
        "p": None if one is None else _number(one.p),
        "rank": None if board.rank_ranges is None else rank(board, i),
        "equal_compute": None if board.equal_compute is None else _number(board.equal_compute[i]),
    }
    if withheld(board, i):
        average = dict.fromkeys(average)
    return {
        "name": label,
        "strategy": selection.strategies[label],
        "kind": kind_of(board, i),
        **_described(selection.strategies[label]),
        "withheld": withheld(board, i),
        "verdict": "" if one is None else one.verdict,
        "words": board.verdict(i),
        "controls": control,
        "shown": [_number(board.task_mean[i, t]) for t in tasks],
        "spread": [_number(board.task_spread[i, t]) for t in tasks],
        "low": [_number(board.task_low[i, t]) for t in tasks],
        "high": [_number(board.task_high[i, t]) for t in tasks],
        "states": [[row.state for row in selection.of(label, task)] for task in selection.tasks],
        "difference": [_number(board.difference[i, t]) for t in tasks],
        "marks": [board.significant(i, t) for t in tasks],
        "p_tasks": [_number(board.p_holm[i, t]) for t in tasks],
        "time": _number(costs.relative_seconds[i]),
        "passes": _number(costs.relative_passes[i]),
        "seconds": _number(costs.seconds[i]),
        "memory": _number(costs.memory[i] / 2**30),
        "cells": coverage(board, i),
        "measured": {name: _estimate(found.value, i) for name, found in board.measures.items()},
        "measured_gain": {
            name: _estimate(found.difference, i) if i != board.baseline else None for name, found in board.measures.items()
        },
        "recall": {task: [_number(value, 4) for value in found.recall[i]] for task, found in board.classes.items()},
        "f1": {task: [_number(value, 4) for value in found.f1[i]] for task, found in board.classes.items()},
        "noise_gain": [_estimate(found, i) if i != board.baseline else None for found in board.noise_gains.values()],
        "flips_found": _number(board.flips_found[i], 3),
        **average,
    }


def _described(strategy: str) -> dict[str, str]:
    """Family, summary and paper of a registered strategy; empty for one of a plugin that is not loaded here."""
    try:
        found = resolve(strategy).strategy
    except UnknownStrategyError:
        return {"family": "", "summary": "", "paper": ""}
    return {"family": found.family, "summary": found.summary, "paper": found.paper}


def _trial(record: TrialRecord, board: Leaderboard) -> dict[str, Any]:
    spec = record.spec
    metric = spec.task.headline_metric
    chosen = board.selection.rows.get((spec.task.name, spec.label, spec.repeat))
    report = record.report.get(spec.data.headline_split)
    return {
        "key": record.key,
        "task": spec.task.name,
        "label": spec.label,
        "repeat": spec.repeat,
        "index": spec.index,
        "purpose": spec.purpose,
        "status": record.status,
        "chosen": chosen is not None and chosen.record is record,
        "objective": _number(record.objective),
        "score": _number(report.metrics.get(metric)) if report else None,
        "seconds": _number(record.cost.train_seconds, 2),
        "settings": spec.settings,
        "training": spec.training.model_dump(mode="json"),
        "error": f"{record.error.type}: {record.error.message}" if record.error else "",
        "finished": record.finished_at,
    }


def _table(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of values by position. Of the fields in `values` a row holds the place in their list: most values are said once."""
    fields = list(trials[0])
    values: dict[str, list[Any]] = {}
    places: dict[str, dict[str, int]] = {}
    for field in ("task", "label", "purpose", "status", "settings", "training", "error"):
        distinct = {json.dumps(trial[field]): trial[field] for trial in trials}
        values[field], places[field] = list(distinct.values()), {text: place for place, text in enumerate(distinct)}

    def cell(field: str, value: Any) -> Any:
        return places[field][json.dumps(value)] if field in places else value

    rows = [[cell(field, value) for field, value in trial.items()] for trial in trials]
    return {"fields": fields, "values": values, "rows": rows}


def _estimate(found: Estimate, i: int) -> list[float | None] | None:
    value = _number(found.value[i])
    return None if value is None else [value, _number(found.low[i]), _number(found.high[i])]


def _number(value: float | None, digits: int = DIGITS) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def chosen_splits(board: Leaderboard) -> list[dict[str, Any]]:
    """Further report splits and metrics of the chosen trials: [{split, metric, task, label, mean}], for the second table."""
    found = []
    for label in board.selection.labels:
        for task in board.selection.tasks:
            records = [row.record for row in board.selection.of(label, task) if row.record and row.record.status == "ok"]
            headline = board.selection.task_spec(task).headline_metric
            names = sorted({(s, m) for record in records for s, score in record.report.items() for m in score.metrics})
            for split, metric in names:
                if (split, metric) != (board.selection.headline_split(task), headline):
                    values = [r.report[split].metrics[metric] for r in records if split in r.report]
                    found.append(
                        {"task": task, "split": split, "metric": metric, "label": label, "mean": float(np.mean(values))}
                    )
    return found
