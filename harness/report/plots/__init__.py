"""Plots of a leaderboard, for paper and page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.report.leaderboard import Leaderboard


@dataclass(frozen=True)
class Plot:
    """One figure that was written as `<name>.svg` where that is small, else as `<name>.png`, or the reason why not."""

    name: str
    title: str
    caption: str
    omitted: str = ""


PLOTS = (
    ("forest", "Gains over plain KD, and verdicts",
     "Mean over tasks with 95 % intervals; band: the margin. Hollow: undecided, not declared; controls under theirs. Below, "
     "where labels were flipped and strategies are few: those tasks alone, by share of flipped labels."),
    ("leaderboard", "Scores with 95 % intervals",
     "Bars: bootstrap over examples, t over repeats; ticks: single repeats; dashed: plain KD; dotted: references."),
    ("gains", "Gains on each task",
     "Points over plain KD. Bold with *: p < 0.05, corrected; †: failed runs; ‡, hatched: missing."),
    ("critical_difference", "Mean ranks",
     "Critical-difference diagram (Friedman, Nemenyi). So few tasks separate extremes only: this is no ground for a claim."),
    ("win_rates", "Win rates",
     "Percent of (task, repeat) in which the row beats the column, ties counting half. Strategies with missing cells are out."),
    ("cost", "Score against cost", "Line and bold names: Pareto front. Strategies whose average is withheld are left out."),
    ("best_so_far", "Best so far",
     "Selection score of the best trial so far, mean over tasks; band: range over repeats; dashed: plain KD; grey: others."),
    ("hyperparameters", "Response to hyper-parameters",
     "Trials of the searches, less the mean of their search; line: medians. Searches look more often where it went well."),
    ("weights", "Weights over training",
     "Median, middle half (dark), middle 80 % (light or thin lines) of samples; mean over tasks and repeats."),
    ("weights_teacher", "Weights and teacher correctness", "Mean weight at the kept epoch; mean over tasks and repeats."),
    ("teacher_shares", "Shares of the teachers",
     "Of the weight on all teachers' terms, at the kept epoch; mean over tasks and repeats."),
    ("flipped_labels", "Finding flipped labels",
     "AUROC of a low weight on the label term as a detector of labels that were flipped on purpose; grey: single tasks. "
     "Strategies that weigh all samples of a batch alike are left out."),
)  # fmt: skip


def write_plots(board: Leaderboard, folder: Path) -> list[Plot]:
    """Write every plot that has data into `folder`, which holds nothing else afterwards."""
    from harness.report.plots.cost import draw_cost
    from harness.report.plots.matrices import draw_gains, draw_ranks, draw_wins
    from harness.report.plots.scores import draw_forest, draw_scores
    from harness.report.plots.search import draw_progress, draw_responses
    from harness.report.plots.style import plot_style, save
    from harness.report.plots.weights import draw_flips, draw_shares, draw_teacher, draw_trajectories

    draw = {
        "forest": draw_forest,
        "leaderboard": draw_scores,
        "gains": draw_gains,
        "critical_difference": draw_ranks,
        "win_rates": draw_wins,
        "cost": draw_cost,
        "best_so_far": draw_progress,
        "hyperparameters": draw_responses,
        "weights": draw_trajectories,
        "weights_teacher": draw_teacher,
        "teacher_shares": draw_shares,
        "flipped_labels": draw_flips,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):
        old.unlink()
    made = []
    with plot_style():
        for name, title, caption in PLOTS:
            drawn = draw[name](board)
            if isinstance(drawn, str):
                made.append(Plot(name, title, caption, omitted=drawn))
                continue
            for number, figure in enumerate(drawn if isinstance(drawn, list) else [drawn], start=1):
                full = name if number == 1 else f"{name}_{number}"
                save(figure, folder, full)
                made.append(Plot(full, title if number == 1 else f"{title} ({number})", caption))
    return made
