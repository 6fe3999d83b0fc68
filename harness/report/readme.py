"""README.md of a store, and what other READMEs show of it. Every figure comes from the store."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.errors import UserError
from harness.report.caption import caption, count, study_name
from harness.report.cells import overall_columns
from harness.report.finding import finding, how_to_read
from harness.report.leaderboard import Leaderboard
from harness.report.notes import FILE, render_notes

NAME = "README.md"
PARTS = ("question", "finding", "picture", "table", "reading")
"""What a block may show: `<!-- report results/NAME: table finding -->` to `<!-- end of report -->`, paths from the README."""
_BLOCK = re.compile(r"(<!-- report (?P<store>\S+): (?P<parts>[\w ]+) -->\n).*?(?P<end><!-- end of report -->)", re.DOTALL)
_COLUMNS = ("Gain", "Verdict", "Passes")


def store_readme(board: Leaderboard, folder: Path) -> str:
    """What was asked, found and done; of words, those of the study's description and of `notes.md.jinja`."""
    notes = render_notes(board, folder)
    name = study_name(board)
    study = board.selection.manifest.get("study_file")
    parts = [
        f"<!-- Written by `python -m harness.report`. Words of your own belong in {FILE}. -->\n# {name}",
        _question(board),
        "## Finding",
        " ".join(finding(board)),
        f"*{how_to_read(board)}*",
        _picture(board, folder, folder),
        "All figures: [leaderboard.md](leaderboard.md), .csv; repeats: scores.csv; trials and all plots: "
        "`index.html`, one page.",
        *(["## Read closely", notes] if notes else []),
        "## Design",
        " ".join(caption(board)),
        *([f"The study as resolved, digests, versions and hardware are in `manifest.json` (`{study}`)."] if study else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def refreshed(readme: Path, board: Leaderboard, folder: Path) -> str:
    """The text of `readme` with its blocks of the store at `folder` made anew.

    Raises UserError where it has none, or one asks for a part that does not exist.
    """
    text = readme.read_text("utf-8")
    here = readme.resolve().parent
    found = 0

    def write(match: re.Match[str]) -> str:
        nonlocal found
        if (here / match["store"]).resolve() != folder.resolve():
            return match[0]
        found += 1
        asked = match["parts"].split()
        if unknown := [part for part in asked if part not in PARTS]:
            raise UserError(f"{readme}: {match[1].strip()} asks for {', '.join(unknown)}; there are {', '.join(PARTS)}")
        made = "\n\n".join(_part(part, board, folder, here) for part in asked)
        return f"{match[1]}{made}\n{match['end']}"

    text = _BLOCK.sub(write, text)
    if not found:
        shown = os.path.relpath(folder.resolve(), here)
        raise UserError(
            f"{readme} has no block for {folder}. Write where it is to stand:\n"
            f"<!-- report {shown}: {' '.join(PARTS)} -->\n<!-- end of report -->"
        )
    return text


def _part(part: str, board: Leaderboard, folder: Path, here: Path) -> str:
    match part:
        case "question":
            return _question(board)
        case "finding":
            return "\n".join(finding(board))
        case "picture":
            return _picture(board, folder, here)
        case "table":
            return _table(board)
        case _:
            return f"*{how_to_read(board)}*"


def _question(board: Leaderboard) -> str:
    study: Mapping[str, Any] = board.selection.manifest.get("study", {})
    said = str(study.get("description") or "").strip()
    return said + ("" if not said or said.endswith(("?", ".")) else ".")


def _picture(board: Leaderboard, folder: Path, here: Path) -> str:
    strategies = count(len(board.selection.labels), "strategy", "strategies")
    tasks = count(len(board.selection.tasks), "task")
    shown = {
        "forest": f"Gains over plain KD on {tasks}, with 95 % intervals and verdicts",
        "leaderboard": f"Scores of {strategies} on {tasks}, with 95 % intervals",  # where nothing is compared with plain KD
    }
    for name, what in shown.items():
        for kind in ("png", "svg"):
            if (file := folder / "plots" / f"{name}.{kind}").is_file():
                return f"![{what}]({Path(os.path.relpath(file.resolve(), here.resolve())).as_posix()})"
    return ""


def _table(board: Leaderboard) -> str:
    columns = {name: cells for name, cells in overall_columns(board).items() if name.startswith(_COLUMNS)}
    rows = [[f"`{board.selection.labels[i]}`", *(cells[i] for cells in columns.values())] for i in board.order]
    return tabulate(rows, ["strategy", *columns], tablefmt="pipe", disable_numparse=True)
