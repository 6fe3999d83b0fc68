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
from harness.report.cells import NOTHING, Cell, coverage, number, overall_columns, score_cell
from harness.report.leaderboard import Estimate, Leaderboard

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
        scores.append(["*detectable difference*", *(number(100 * float(d)) for d in board.detectable)])
    columns = overall_columns(board)
    overall = [[labels[i], *(cells[i] for cells in columns.values())] for i in order]
    measured = measured_rows(board)
    own = ["teacher"] if any("teacher" in sizes for _, _, sizes, _ in measured) else []
    roles = ["fit", "meta", "select", *own, "validation"]
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
    if any(sizes for _, _, sizes, _ in measured):
        header = ["task", "metric", *roles, "official train / validation"]
        parts += ["## Rows", tabulate(rows, header, tablefmt="pipe", disable_numparse=True)]
    return "\n\n".join(parts) + "\n"


def csv_text(board: Leaderboard) -> str:
    """One line per strategy, full precision, fractions. Empty where a figure is withheld or missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    overall: dict[str, Estimate] = {
        "mean": board.mean_score,
        "normalised": board.normalised,
        "iqm": board.iqm,
        "gain": board.gain,
        "probability_of_improvement": board.improvement,
    }
    header = ["label", "strategy", "protocol_version", "label_budget", "repeat_mode", "repeats"]
    header += [f"{task}.{name}" for task in board.selection.tasks for name in TASK_COLUMNS]
    header += [f"{name}{end}" for name in overall for end in ("", "_low", "_high")]
    header += ["gain_p", "gain_p_holm", "mean_rank", "equal_compute_mean", "train_seconds", "relative_seconds", "passes"]
    header += ["relative_passes", "peak_memory_bytes", "search_seconds", "cells", "settings"]
    writer.writerow(header)
    spec = board.selection.records[0].spec
    for i in board.order:
        label = board.selection.labels[i]
        row: list[object] = [label, board.selection.strategies[label], spec.protocol_version, spec.label_budget]
        row += ["winner" if board.selection.winner else "search", board.selection.repeats]
        arrays = [board.task_mean, board.task_spread, board.task_low, board.task_high, board.difference]
        arrays += [board.difference_low, board.difference_high, board.p, board.p_holm, board.p_mcnemar]
        row += [array[i, t] for t in range(len(board.selection.tasks)) for array in arrays]
        row += [array[i] for found in overall.values() for array in (found.value, found.low, found.high)]
        row += [board.gain_p[i], board.gain_p_holm[i], board.ranking.mean_ranks[i] if board.ranking else math.nan]
        row += [board.equal_compute[i] if board.equal_compute is not None else math.nan]
        costs = board.costs
        row += [a[i] for a in (costs.seconds, costs.relative_seconds, costs.passes, costs.relative_passes, costs.memory)]
        row += [costs.search_seconds[i], coverage(board, i), _chosen_settings(board, label)]
        writer.writerow([_plain(value) for value in row])
    return out.getvalue()


def latex(board: Leaderboard) -> str:
    """Two tables for the packages booktabs and graphicx."""
    tasks = range(len(board.selection.tasks))
    best = np.nanmax(np.where(np.isnan(board.task_mean), -np.inf, board.task_mean), axis=0)
    scores = []
    for i in board.order:
        cells = []
        for t in tasks:
            text = _tex_cell(score_cell(board, i, t))
            cells.append(f"\\textbf{{{text}}}" if board.task_mean[i, t] == best[t] else text)
        scores.append([_tex(board.selection.labels[i]), *cells])
    teacher = ["\\emph{teacher}", *(number(100 * float(score)) for score in board.teacher)]
    columns = overall_columns(board)
    overall = [[_tex(board.selection.labels[i]), *(_tex(cells[i]) for cells in columns.values())] for i in board.order]
    first = _tex_table(
        ["strategy", *task_headers(board)], scores, [teacher], " ".join(caption(board) + legend(board)), "scores"
    )
    second = _tex_table(["strategy", *columns], overall, [], f"{study_name(board)}: over tasks, and cost.", "overall")
    return f"% needs \\usepackage{{booktabs,graphicx}}\n{first}\n{second}"


def text(board: Leaderboard, width: int = 120) -> str:
    """For a terminal: tasks and the few figures that matter, then the caption in lines of `width`."""
    import textwrap

    columns = overall_columns(board)
    kept = [name for name in columns if name.startswith(("Normalised", "Gain", "p (", "Time", "Cells"))]
    short = {name: name.split(" [")[0] for name in kept}
    rows = [
        [
            board.selection.labels[i],
            *(score_cell(board, i, t).text(spread="±") for t in range(len(board.selection.tasks))),
            *(columns[name][i] for name in kept),
        ]
        for i in board.order
    ]
    rows.append(["(teacher)", *(number(100 * float(score)) for score in board.teacher), *("" for _ in kept)])
    table = tabulate(rows, ["strategy", *task_headers(board), *short.values()], tablefmt="simple", disable_numparse=True)
    said = [textwrap.fill(sentence, width) for sentence in (" ".join(legend(board)), *caption(board))]
    return printable("\n".join([table, "", *said]))


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


def _plain(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"  # spreadsheets would compute it
    return value


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
