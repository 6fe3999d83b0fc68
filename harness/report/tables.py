"""The leaderboard as Markdown, CSV, LaTeX and terminal text."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
from tabulate import tabulate

from harness.errors import printable
from harness.report.caption import caption, legend, measured_rows, study_name
from harness.report.cells import (
    FLIPPED_SAID,
    NOTHING,
    Cell,
    columns_table,
    coverage,
    measure_columns,
    noise_columns,
    number,
    overall_columns,
    score_cell,
    side_tables,
)
from harness.report.costs import passes
from harness.report.leaderboard import Leaderboard
from harness.report.measured import NO_TEACHER, TEACHER
from harness.report.sampled import Estimate
from harness.stats.measures import MEASURES
from harness.study.comparisons import STATISTICS_VERSION
from harness.study.data import SURPLUS

COMPARISON_COLUMNS = {
    "verdict": "words",
    "p": "p",
    "p_holm": "p_holm",
    "p_alone": "alone",
    "p_equivalent": "p_equivalent",
    "detectable": "detectable",
    "detectable_corrected": "detectable_corrected",
    "repeats_needed": "repeats_needed",
    "rests_on": "rests_on",
}
"""Of the CSV -> attribute of the comparison with plain KD."""
TASK_COLUMNS = ("mean", "sd", "low", "high", "difference", "difference_low", "difference_high", "p", "p_holm", "p_mcnemar")


def task_headers(board: Leaderboard) -> list[str]:
    short = {"accuracy": "acc", "f1": "F1", "matthews": "Matthews"}
    return [f"{task} {short[board.selection.task_spec(task).headline_metric]}" for task in board.selection.tasks]


def markdown(board: Leaderboard) -> str:
    """Scores per task, overall figures and cost, rows of data, caption."""
    order = board.order
    shown = [printable(label).replace("|", "\\|") for label in board.selection.labels]
    labels = [f"**{label}**" if i == board.baseline else label for i, label in enumerate(shown)]
    scores = [[labels[i], *(score_cell(board, i, t).text() for t in range(len(board.selection.tasks)))] for i in order]
    scores.append(["*teacher*", *(number(100 * float(score)) for score in board.teacher)])
    if np.isfinite(board.detectable).any():
        scores.append(["*detectable*", *(detectable(board, t) for t in range(len(board.selection.tasks)))])
    columns = overall_columns(board)
    overall = [[labels[i], *(cells[i] for cells in columns.values())] for i in order]
    measured = measured_rows(board)
    own = ["teacher"] if any("teacher" in sizes for _, _, sizes, _ in measured) else []
    surplus = [SURPLUS] if any(SURPLUS in sizes for _, _, sizes, _ in measured) else []
    roles = ["fit", "meta", "select", *own, "validation", *surplus]
    rows = [
        [
            task,
            metric,
            *(f"{sizes[role]:,}" if role in sizes else NOTHING for role in roles),
            f"{official.get('train', 0):,} / {official.get('validation', 0):,}" if official else NOTHING,
        ]
        for task, metric, sizes, official in measured
    ]
    parts = [
        f"# Leaderboard of {study_name(board)}",
        " ".join(caption(board)),
        "## Scores per task",
        tabulate(scores, ["strategy", *task_headers(board)], tablefmt="pipe", disable_numparse=True),
        " ".join(legend(board)),
        "## Over tasks, and cost",
        tabulate(overall, ["strategy", *columns], tablefmt="pipe", disable_numparse=True),
    ]
    bold = dict(zip(board.selection.labels, labels, strict=True))
    flipped = columns_table("By share of flipped labels", noise_columns(board), FLIPPED_SAID, board)
    probabilities = columns_table("From probabilities", measure_columns(board), measures_said(board), board)
    for table in (*side_tables(board), *flipped, *probabilities):  # the page has the last two among its columns
        cells = [[bold[label], *rest] for label, *rest in table.rows]
        parts += [f"## {table.title}", tabulate(cells, table.header, tablefmt="pipe", disable_numparse=True), table.said]
    if any(sizes for _, _, sizes, _ in measured):
        header = ["task", "metric", *roles, "official train / validation"]
        parts += ["## Rows", tabulate(rows, header, tablefmt="pipe", disable_numparse=True)]
    return "\n\n".join(parts) + "\n"


def measures_said(board: Leaderboard) -> str:
    """What the measures are."""
    said = "; ".join(f"{MEASURES[name].title}: {MEASURES[name].hint}" for name in board.measures)
    return (
        f"Mean over the tasks of the mean; explored, without marks. {said}. Probabilities are kept as float16: one kept as 0 "
        f"counts as 6e-8. {TEACHER if any(MEASURES[name].of_teacher for name in board.measures) else NO_TEACHER}"
    )


def detectable(board: Leaderboard, task: int) -> str:
    """By itself / corrected, points."""
    return " / ".join(number(100 * float(found[task])) for found in (board.detectable, board.detectable_corrected))


def csv_text(board: Leaderboard) -> str:
    """One line per strategy, fractions, to twelve digits: what comes after them is rounding that differs between processors.
    Empty where a figure is withheld or missing.
    """
    selection, costs, tasks = board.selection, board.costs, board.selection.tasks
    estimates: dict[str, Estimate] = {"mean": board.mean_score, "gain": board.gain, "gain_weighted": board.gain_weighted}
    further = {name: found.value for name, found in board.measures.items()}
    further |= {f"{name}_difference": found.difference for name, found in board.measures.items()}
    further |= {f"gain_flipped_{level.rstrip('%')}": found for level, found in board.noise_gains.items()}
    for split, (score, against) in board.further_splits.items():
        name = ".".join(split.split())
        further |= {name: score, f"{name}_difference": against}
    of_classes = [
        (f"{task}.{kind}_{name}", scores[:, k])
        for task, found in board.classes.items()
        for kind, scores in (("recall", found.recall), ("f1", found.f1))
        for k, name in enumerate(found.names)
    ]
    header = ["label", "strategy", "protocol_version", "statistics_version", "label_budget", "repeat_mode", "repeats"]
    header += [f"{task}.{name}" for task in tasks for name in TASK_COLUMNS]
    header += [f"{name}{end}" for name in estimates for end in ("", "_low", "_high")]
    header += [
        *COMPARISON_COLUMNS,
        "control_verdict",
        "control_p",
        "equal_rows_verdict",
        "equal_rows_p",
        "normalised",
        "iqm",
        "probability_of_improvement",
    ]
    header += ["rank_best", "rank_worst", "equal_compute_mean", "train_seconds", "relative_seconds", "passes"]
    header += ["relative_passes", "peak_memory_bytes", "search_seconds", "cells", "settings"]
    header += [f"{name}{end}" for name in further for end in ("", "_low", "_high")]
    header += [f"{task}.{name}" for name in board.measures for task in tasks] + [name for name, _ in of_classes]
    header += ["flips_found_auroc"]
    spec = selection.records[0].spec
    controls, equal_rows = ({one.label: one for one in family} for family in (board.controls, board.equal_rows))
    rows = []
    for i in board.order:
        label, one, own = selection.labels[i], board.comparisons[i], controls.get(selection.labels[i])
        row: list[object] = [label, selection.strategies[label], spec.protocol_version, STATISTICS_VERSION, spec.label_budget]
        row += ["winner" if selection.winner else "search", selection.repeats]
        arrays = [board.task_mean, board.task_spread, board.task_low, board.task_high, board.difference]
        arrays += [board.difference_low, board.difference_high, board.p, board.p_holm, board.p_mcnemar]
        row += [array[i, t] for t in range(len(tasks)) for array in arrays]
        row += [array[i] for found in estimates.values() for array in (found.value, found.low, found.high)]
        row += [math.nan if one is None else getattr(one, attribute) for attribute in COMPARISON_COLUMNS.values()]
        for found in (own, equal_rows.get(label)):
            row += [found.words if found else "", found.p if found else math.nan]
        row += [board.normalised[i], board.iqm[i], board.improvement[i]]
        ranks = board.rank_ranges[i] if board.rank_ranges else None
        row += [ranks.best, ranks.worst] if ranks else [math.nan] * 2
        row += [board.equal_compute[i] if board.equal_compute is not None else math.nan]
        row += [a[i] for a in (costs.seconds, costs.relative_seconds, costs.passes, costs.relative_passes, costs.memory)]
        row += [costs.search_seconds[i], coverage(board, i), _chosen_settings(board, label)]
        row += [array[i] for found in further.values() for array in (found.value, found.low, found.high)]
        row += [measured.on_tasks[i, t] for measured in board.measures.values() for t in range(len(tasks))]
        row += [*(scores[i] for _, scores in of_classes), board.flips_found[i]]
        rows.append([_rounded(value) for value in row])
    return _csv(header, rows)


def scores_text(board: Leaderboard) -> str:
    """One line per task, strategy and repeat: what everything else is computed from."""
    rows: list[list[object]] = [
        [row.task, row.label, board.selection.strategies[row.label], row.repeat, row.state, row.score,
         row.record.key if row.record else "", row.record.cost.train_seconds if row.record else math.nan,
         passes(row.record) if row.record else math.nan]
        for row in board.selection.rows.values()
    ]  # fmt: skip
    return _csv(["task", "label", "strategy", "repeat", "state", "score", "trial", "train_seconds", "passes"], rows)


def _csv(header: list[str], rows: list[list[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue()


def latex(board: Leaderboard) -> str:
    """Two tables for the packages booktabs and graphicx."""
    tasks = range(len(board.selection.tasks))
    scores = []
    for i in board.order:
        cells = []
        for t in tasks:
            text = _tex_cell(score_cell(board, i, t))
            cells.append(f"\\textbf{{{text}}}" if board.significant(i, t) > 0 else text)
        scores.append([_tex(board.selection.labels[i]), *cells])
    teacher = ["\\emph{teacher}", *(number(100 * float(score)) for score in board.teacher)]
    columns = overall_columns(board)
    overall = [[_tex(board.selection.labels[i]), *(_tex(cells[i]) for cells in columns.values())] for i in board.order]
    first = _tex_table(
        ["strategy", *task_headers(board)], scores, [teacher], " ".join(caption(board) + legend(board)), "scores"
    )
    second = _tex_table(["strategy", *columns], overall, [], f"{study_name(board)}: over tasks, and cost.", "overall")
    return f"% needs \\usepackage{{booktabs,graphicx}}\n{first}\n{second}"


def _chosen_settings(board: Leaderboard, label: str) -> str:
    """Settings of the chosen trials by task/repeat, as JSON."""
    rows = board.selection.of(label)
    chosen = {
        f"{row.task}/{row.repeat}": {
            **row.record.spec.settings,
            "learning_rate": row.record.spec.training.learning_rate,
            "temperature": row.record.spec.training.temperature,
        }
        for row in rows
        if row.record is not None
    }
    return json.dumps(chosen, sort_keys=True)


def _rounded(value: object) -> object:
    """Floats to twelve significant digits, and to as many decimals: differences of 0 are a rounding away from it."""
    return float(f"{round(value, 12):.12g}") + 0.0 if isinstance(value, float) else value


def _plain(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"  # spreadsheets would compute it
    return "" if value is None else value


def _tex_cell(cell: Cell) -> str:
    marks = {"better": r"$^{\blacktriangle}$", "worse": r"$^{\blacktriangledown}$", "failed": r"$^{\dagger}$"}
    return cell.text(**marks, missing=r"$^{\ddagger}$", spread=r" $\pm$ ").replace(NOTHING, "--")


def _tex(value: str) -> str:
    special = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    special |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$", "±": r"$\pm$", NOTHING: "--"}
    special |= {"▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "†": r"$\dagger$", "‡": r"$\ddagger$"}
    special |= {"<": "$<$", ">": "$>$"}
    return "".join(special.get(letter, letter) for letter in value)


def _tex_table(header: list[str], rows: list[list[str]], below: list[list[str]], said: str, name: str) -> str:
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_tex(said)}}}",
        rf"\label{{tab:{name}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(_tex(cell) for cell in header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        *([r"\midrule"] if below else []),
        *(" & ".join(row) + r" \\" for row in below),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"
