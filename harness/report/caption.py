"""What a table has to say of itself: data, rows, models, protocol, date, commit, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.report.leaderboard import Leaderboard
from harness.report.mixed import mixed
from harness.report.references import trained_elsewhere
from harness.stats import LEVEL, smallest_p
from harness.study.comparisons import STATISTICS_VERSION
from harness.study.data import SURPLUS, VALIDATION


def caption(board: Leaderboard) -> list[str]:
    """Sentences, most important first."""
    selection = board.selection
    study = selection.manifest.get("study", {})
    said = [
        _what(board),
        _data(board, study.get("data", {})),
        _models(study.get("models", {})),
        trained_elsewhere(selection),
        _protocol(board, study),
        _early_stopping(board),
        _micro_batches(board),
        _slot_use(board),
        _provenance(selection.manifest),
        *mixed(selection.records),
        *board.notes,
        *selection.warnings,
    ]
    if selection.damage:
        said.append(f"{len(selection.damage)} damaged records are left out, first: {selection.damage[0]}.")
    return [sentence for sentence in said if sentence]


def legend(board: Leaderboard) -> list[str]:
    """How to read the marks and columns."""
    selection = board.selection
    said = ["Scores are in points (100 = perfect; Matthews correlation times 100)."]
    if selection.repeats > 1:
        said.append(f"± is the standard deviation over {selection.repeats} repeats.")
    if board.baseline is not None:
        said += _comparisons(board)
    if selection.repeats == 1:
        said.append("One repeat: intervals hold examples alone, not training noise.")
    if any(row.state == "failed" for row in selection.rows.values()):
        said.append("†: every trial of a cell failed and the majority-class predictor's score stands in.")
    if any(row.state in ("missing", "incomplete") for row in selection.rows.values()):
        said.append("‡: cells are missing or their search is not finished; what there is is shown, averages are withheld.")
    if np.isfinite(board.normalised).any():
        said.append("Normalised: 0 = student trained on labels alone, 1 = teacher; references at their means; no interval.")
        left_out = [t for t, used in zip(selection.tasks, board.normalised_tasks, strict=True) if not used]
        if left_out:
            said.append(f"Without {', '.join(left_out)}.")
    if board.equal_compute is not None:
        said.append(
            "Mean at equal compute: of the same trials, the best within the passes of the cheapest search of the same task and "
            "repeat; –: not one trial fits."
        )
    if any(record.cost.stacked > 1 for record in selection.records):
        said.append("Stacked trials (resources.stacked): seconds and peak memory are of all that shared the process.")
    if board.rank_ranges is not None:
        said.append("Rank: shared with all that it is not told apart from (one-sided, 5 %, each pair by itself).")
    return said


def _comparisons(board: Leaderboard) -> list[str]:
    """The declared families, their correction, the verdicts and what could have been seen."""
    plain, repeats = board.baseline_label, board.selection.repeats
    drawn = "bootstrap over examples, t over repeats" if repeats > 1 else "bootstrap over examples"
    said = [
        f"Primary family, declared: {count(len(board.primary), 'strategy', 'strategies')} against {plain}, over tasks. p: "
        f"the larger of step-down max-T over sign-flips of {count(board.units, 'unit')}, each one repeat on one data set (no p "
        f"below {smallest_p(board.units):.2g}) and of the interval ({drawn}, {board.test_draws:,} draws); Holm's is in "
        "the CSV. References and controls carry no mark.",
        f"Verdict at 5 %: better, worse, equivalent within {board.margin:g} (two one-sided tests, Holm), else undecided, "
        f"with the repeats that would show a difference of {board.margin:g} points in four of five studies. Rests on a task: "
        "without it the verdict would not stand.",
    ]
    if board.primary and smallest_p(board.units) >= LEVEL:
        said.append(
            f"{count(board.units, 'unit')} of data sets x repeats allow no p below {smallest_p(board.units):.2g}: no verdict "
            "of better or worse is possible in this study; it needs more repeats."
        )
    if np.isfinite(board.detectable).any():
        said.append("Detectable: the true difference that four of five such studies would find, by itself / corrected.")
        if board.primary:
            said.append(f"Of a gain: {detectable_gain(board)} points.")
    said.append(f"▲ / ▼: on the task, better / worse than {plain} with p < 0.05 (Holm over the family).")
    return said


def detectable_gain(board: Leaderboard) -> str:
    """Medians over the primary family: by itself / corrected, points."""
    each = [
        np.array([100 * getattr(one, name) for one in board.primary if np.isfinite(one.value) and one.detectable > 0])
        for name in ("detectable", "detectable_corrected")
    ]
    return " / ".join(f"{np.median(found):.1f}" if len(found) and np.isfinite(found).all() else "none" for found in each)


def measured_rows(board: Leaderboard) -> list[tuple[str, str, dict[str, int], dict[str, int]]]:
    """Per task: name, headline metric, rows by role and split, official rows by split."""
    manifest = board.selection.manifest
    rows, official = manifest.get("rows", {}), manifest.get("official_rows", {})
    return [
        (task, board.selection.task_spec(task).headline_metric, rows.get(task, {}), official.get(task, {}))
        for task in board.selection.tasks
    ]


def study_name(board: Leaderboard) -> str:
    return str(board.selection.manifest.get("study", {}).get("name") or board.selection.path.name)


def _what(board: Leaderboard) -> str:
    selection = board.selection
    trials = {row.planned - (1 if selection.winner else 0) for row in selection.rows.values()}
    each = f"{min(trials)}" if len(trials) == 1 else f"{min(trials)} to {max(trials)}"
    if trials == {1}:
        how = f"default hyper-parameters, not tuned, {count(selection.repeats, 'seed')} per cell"
    elif selection.winner:
        how = (
            f"best of one search of {each} trials, then {count(selection.repeats, 'seed')} of that configuration "
            "(`repeat: winner`: the spread leaves out how much a search varies)"
        )
    else:
        how = f"{count(selection.repeats, 'independent search', 'independent searches')} of {each} trials per cell"
    return (
        f"Study {study_name(board)}: {count(len(selection.labels), 'strategy', 'strategies')} on "
        f"{count(len(selection.tasks), 'task')}; {how}; scores on "
        f"{_reported_on(board)}, selected on a part of train."
    )


def _reported_on(board: Leaderboard) -> str:
    validation = f"the {'official ' if _official(board) else ''}validation split"
    surplus = "rows of train that nobody trained on or chose by"
    splits = {task: board.selection.headline_split(task) for task in board.selection.tasks}
    if VALIDATION not in splits.values():
        return surplus
    own = [task for task, split in splits.items() if split == SURPLUS]
    return f"{validation} ({', '.join(own)}: on {surplus})" if own else validation


def _official(board: Leaderboard) -> bool:
    data = board.selection.manifest.get("study", {}).get("data", {})
    own = any(board.selection.task_spec(task).files for task in board.selection.tasks)
    return not own and data.get("source") in ("hub", "directory") and all(official for *_, official in measured_rows(board))


def _data(board: Leaderboard, data: Mapping[str, Any]) -> str:
    rows = measured_rows(board)
    if not any(sizes for _, _, sizes, _ in rows):
        return ""
    parts = [f"Data: {_source(board, data)}"]
    trained = [sum(sizes.get(role, 0) for role in ("fit", "meta", "select")) for _, _, sizes, _ in rows]
    reported = [sizes.get(board.selection.headline_split(task), 0) for task, _, sizes, _ in rows]
    shown = "report" if any(SURPLUS in sizes for _, _, sizes, _ in rows) else VALIDATION
    if _source(board, data) == "generated text":
        parts.append(f"{_span(trained)} training and {_span(reported)} {shown} rows per task")
    else:
        parts.append(
            f"{_span(trained)} training rows per task{_share(rows, trained, 'train')}, "
            f"{_span(reported)} {shown} rows{_share(rows, reported, VALIDATION) if shown == VALIDATION else ''}"
        )
    taught = [sizes["teacher"] for _, _, sizes, _ in rows if "teacher" in sizes]
    if taught:
        parts.append(f"teachers trained on {_span(taught)} rows, of which students saw the `fit` rows alone")
    if noises := _noises(board):
        parts.append(f"{', '.join(noises)} of training labels flipped on purpose")
    return "; ".join(parts) + "."


def _source(board: Leaderboard, data: Mapping[str, Any]) -> str:
    """Where rows came from, and those of which tasks where that differs."""
    per_task = board.selection.manifest.get("study", {}).get("data_per_task") or {}
    tasks: dict[str, list[str]] = {}
    for task in board.selection.tasks:
        own = {**data, **per_task.get(task, {})}
        source = {
            "hub": f"hub data set {own.get('dataset') or own.get('hub_name')}",
            "directory": "local directory",
            "generated": "generated text",
        }.get(str(own.get("source")), "unknown source")
        tasks.setdefault("the study's own files" if board.selection.task_spec(task).files else source, []).append(task)
    if len(tasks) == 1:
        return next(iter(tasks))
    return "; ".join(f"{source} for {', '.join(named)}" for source, named in tasks.items())


def _noises(board: Leaderboard) -> list[str]:
    """Shares of flipped labels, and of which tasks where they differ."""
    tasks: dict[str, list[str]] = {}
    for task in board.selection.tasks:
        tasks.setdefault(f"{100 * board.selection.label_noise(task):.4g}%", []).append(task)
    if len(tasks) == 1:
        return [noise for noise in tasks if noise != "0%"]
    return [f"{noise} ({', '.join(named)})" for noise, named in tasks.items() if noise != "0%"]


def _share(rows: list[tuple[str, str, dict[str, int], dict[str, int]]], used: list[int], split: str) -> str:
    shares = [
        100 * count / official[split] for (_, _, _, official), count in zip(rows, used, strict=True) if official.get(split)
    ]
    if not shares:
        return ""
    low, high = f"{min(shares):.3g}", f"{max(shares):.3g}"
    return f" ({low} % of the official rows)" if low == high else f" ({low} to {high} % of the official rows)"


def _models(models: Mapping[str, Any]) -> str:
    if not models:
        return ""
    teachers = ", ".join(_model(teacher) for teacher in models.get("teachers", []))
    return f"Teacher: {teachers}; student: {_model(models.get('student', {}))}."


def _model(spec: Mapping[str, Any]) -> str:
    config = spec.get("config")
    depth = (config or {}).get("num_hidden_layers")
    random = f"random {config.get('model_type')}" + (f" of {count(depth, 'layer')}" if depth else "") if config else "?"
    name = spec.get("model") or random
    if checkpoints := spec.get("fine_tuned"):
        name = f"{spec.get('name')} (fine-tuned: {', '.join(f'{task} {model}' for task, model in checkpoints.items())})"
    elif spec.get("outputs"):
        name = f"{spec.get('name')} (stored {spec.get('output_kind', 'logits')})"
    layers = spec.get("layers")
    return f"{name}, layers {', '.join(map(str, layers))}" if layers else str(name)


def _protocol(board: Leaderboard, study: Mapping[str, Any]) -> str:
    specs = [record.spec for record in board.selection.records]
    versions = sorted({spec.protocol_version for spec in specs})
    budgets = sorted({spec.label_budget for spec in specs})
    explained = {
        "equal_labels": "strategies without a meta set train on its rows too",
        "equal_fit": "nobody trains on the meta rows",
    }
    said = ", ".join(f"{budget} ({explained[budget]})" for budget in budgets)
    return f"Trained by protocol {', '.join(versions)}, table by {STATISTICS_VERSION}; label budget {said}."


def _early_stopping(board: Leaderboard) -> str:
    study = board.selection.manifest.get("study", {})
    stopped = [record for record in board.selection.records if record.status == "stopped"]
    rule = study.get("search", {}).get("early_stopping")
    if not stopped and not rule:
        return ""
    kinds = sorted(
        {str(record.early_stopping.kind) for record in stopped if record.early_stopping} | ({rule["kind"]} if rule else set())
    )
    searched = sum(record.spec.purpose == "search" for record in board.selection.records)
    return (
        f"With early stopping within each search ({', '.join(kinds)}): {len(stopped)} of {searched} trials ended early and "
        "cannot be the best of theirs; no rows for a leaderboard."
    )


def _micro_batches(board: Leaderboard) -> str:
    split = sum(any(epoch.micro_batches > 1 for epoch in record.epochs) for record in board.selection.records)
    if not split:
        return ""
    ran = "1 trial ran" if split == 1 else f"{split} trials ran"
    return f"{ran} out of memory and passed batches in parts, at an extra forward pass; the global batch stayed the same."


def _slot_use(board: Leaderboard) -> str:
    work = board.selection.work
    use = None if work is None else work.slot_use()
    if work is None or use is None:
        return ""
    return (
        f"Slot use {use:.0%} in the last run that trained ({count(work.finished, 'trial')}): seconds of optimisation over "
        f"slots x wall time from the first trial's start to the last one's end."
    )


def _provenance(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return "No manifest: where the rows, models and code came from is not known."
    git = manifest.get("git") or {}
    commit = (
        f"commit {git['commit'][:12]}{' with uncommitted changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else "commit not known"
    )
    finished = manifest.get("finished_at")
    when = f"finished {finished[:10]}" if finished else f"started {str(manifest.get('started_at'))[:10]}, not finished"
    return f"Run {when}, {commit}."


def count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _span(numbers: list[int]) -> str:
    return f"{min(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,} to {max(numbers):,}"
