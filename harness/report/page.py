"""`index.html`: one page without a network, that can be sent by mail and opened from a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from harness.report.caption import caption, legend, measured_rows, study_name
from harness.report.cells import side_tables
from harness.report.finding import answer
from harness.report.leaderboard import Leaderboard
from harness.report.page_data import chosen_splits, page_data, reproducing_command
from harness.report.plots import Plot
from harness.report.plots.style import PNG_DPI
from harness.report.tables import measures_said

DRAWN_HERE = ("forest", "cost", "weights", "flipped_labels")
"""By the page itself, from its data."""


def page(board: Leaderboard, plots: list[Plot], folder: Path) -> str:
    """The page's text. `folder` holds the plots' files.

    Whatever came from a study or a trial is escaped. The policy in the page forbids everything but its own style and scripts,
    by their digests, and pictures that it holds itself.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_file("page.html.jinja"))
    style = _file("page.css.jinja")
    script = "\n".join(_file(f"{name}.js.jinja") for name in ("leaderboard", "plots", "trials"))
    data = page_data(board)
    return template.render(
        title=f"Leaderboard of {study_name(board)}",
        description=board.selection.manifest.get("study", {}).get("description", ""),
        answer=answer(board).replace("`", ""),
        side_tables=side_tables(board),
        measures_said=measures_said(board) if board.measures else "",
        classes=bool(board.classes),
        noise=bool(board.noise_gains) or bool(np.isfinite(board.flips_found).any()),
        captions=[sentence.replace("`", "") for sentence in caption(board)],
        legend=legend(board),
        plots=[(plot, _picture(folder, plot.name)) for plot in plots if not plot.omitted and plot.name not in DRAWN_HERE],
        drawn={plot.name: plot for plot in plots if not plot.omitted and plot.name in DRAWN_HERE},
        terms=data["curves"]["terms"],
        learning=bool(data["curves"]["learning"]),
        omitted=[plot for plot in plots if plot.omitted],
        failures=_failures(board),
        damage=board.selection.damage,
        rows=measured_rows(board),
        others=_other_scores(board),
        manifest=_manifest(board),
        data=_safe_json(data),
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _failures(board: Leaderboard) -> list[dict[str, Any]]:
    return [
        {"record": record, "error": record.error, "command": reproducing_command(board, record.key)}
        for record in board.selection.records
        if record.status == "failed"
    ]


def _other_scores(board: Leaderboard) -> dict[str, Any] | None:
    """Metrics and splits beside the headline, as a table: columns, and per label a cell for each."""
    found = chosen_splits(board)
    if not found:
        return None
    columns = list(dict.fromkeys((one["task"], one["split"], one["metric"]) for one in found))
    values = {(one["label"], one["task"], one["split"], one["metric"]): f"{100 * one['mean']:.1f}" for one in found}
    labels = [board.selection.labels[i] for i in board.order]
    return {
        "columns": columns,
        "rows": [(label, [values.get((label, *column), "–") for column in columns]) for label in labels],
    }


def _manifest(board: Leaderboard) -> str:
    """Without the two lists of all cells and trials, which the tables show."""
    shown = {key: value for key, value in board.selection.manifest.items() if key not in ("planned_cells", "trials")}
    return json.dumps(shown, indent=2, ensure_ascii=False, sort_keys=True)


def _picture(folder: Path, name: str) -> dict[str, Any]:
    """Address of the plot, and its width in CSS pixels, of which an inch has 96."""
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    if svg.exists():
        kind, content = "svg+xml", svg.read_bytes()
        found = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', content)
        assert found is not None  # matplotlib writes it
        inches = float(found[1]) / 72
    else:
        kind, content = "png", png.read_bytes()
        inches = struct.unpack(">II", content[16:24])[0] / PNG_DPI
    return {"address": f"data:image/{kind};base64,{base64.b64encode(content).decode()}", "width": round(inches * 96)}


def _safe_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return files("harness.report").joinpath(name).read_text("utf-8")
