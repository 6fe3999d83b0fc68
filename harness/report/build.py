"""The whole report of a store, from the store alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.store.files import write_atomically

if TYPE_CHECKING:
    from harness.report.leaderboard import Leaderboard
    from harness.report.plots import Plot


@dataclass(frozen=True)
class Report:
    """What was written."""

    folder: Path
    files: tuple[Path, ...]
    plots: tuple[Plot, ...]
    board: Leaderboard


def build_report(path: Path, readme: Path | None = None) -> Report:
    """Write leaderboard.md, .csv, .tex, scores.csv, plots/, index.html and README.md into the store at `path`.

    `readme`: another one whose blocks of this store are made anew (see `harness.report.readme`). The same store gives the same
    bytes. Raises StoreError where it holds no trial to report on, or cannot be written; UserError for a readme without a block.
    """
    from harness.report.leaderboard import make_leaderboard
    from harness.report.page import page
    from harness.report.plots import write_plots
    from harness.report.readme import NAME, refreshed, store_readme
    from harness.report.tables import csv_text, latex, markdown, scores_text

    folder = Path(path)
    board = make_leaderboard(folder)
    tables = {"leaderboard.md": markdown(board), "leaderboard.csv": csv_text(board), "leaderboard.tex": latex(board)}
    tables["scores.csv"] = scores_text(board)
    for name, content in tables.items():
        write_atomically(folder / name, content.encode())
    plots = write_plots(board, folder / "plots")
    write_atomically(folder / "index.html", page(board, plots, folder / "plots").encode())
    write_atomically(folder / NAME, store_readme(board, folder).encode())
    if readme is not None:
        write_atomically(readme, refreshed(readme, board, folder).encode())
    names = [f"{plot.name}.{kind}" for plot in plots if not plot.omitted for kind in ("png", "svg")]
    drawn = [folder / "plots" / name for name in names if (folder / "plots" / name).exists()]
    written = (*(folder / name for name in (*tables, NAME)), *drawn, folder / "index.html")
    return Report(folder, written, tuple(plots), board)
