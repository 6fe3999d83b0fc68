"""The look of all plots: colours that the colour-blind can tell apart (Okabe & Ito 2008), shapes that print in black and white.

Nothing here goes through pyplot, so the report leaves no global state; SVG ids and metadata are fixed, so the same figures give
the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.leaderboard import Leaderboard
from harness.study.comparisons import kind_of_strategy

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, LIGHT = "#767676", "#D9D9D9"
SERIES: tuple[tuple[str, Any, str], ...] = (
    (BLUE, "-", "o"),
    (VERMILLION, "--", "s"),
    (GREEN, "-.", "^"),
    (PURPLE, ":", "D"),
    (ORANGE, (0, (5, 1, 1, 1, 1, 1)), "v"),
)
"""Colour, line style and marker of the first, second, ... series: each tells them apart alone."""

KINDS: dict[str, dict[str, Any]] = {
    "strategy": {"marker": "o", "color": BLUE, "markerfacecolor": BLUE},
    "plain KD": {"marker": "D", "color": BLACK, "markerfacecolor": BLACK},
    "reference": {"marker": "s", "color": GREY, "markerfacecolor": "white"},
    "control": {"marker": "^", "color": VERMILLION, "markerfacecolor": "white"},
}

FEW = 12
"""As many strategies as pictures of pairs are drawn for."""
PNG_DPI = 150
_FREQUENT, _OTHER = 32, 64
"""Colours of a PNG: the most frequent ones, exactly, and so many that cover the rest. A third of the bytes of all colours."""
_SVG_BYTES = 64 * 1024
"""A larger SVG is not kept: reports are published, and travel by mail."""

_LEGEND_ENTRY = 0.95
"""Inches that an entry of a legend takes at most."""

_SETTINGS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.dpi": PNG_DPI,  # laid out as it is drawn
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "hatch.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "savefig.dpi": PNG_DPI,
    "svg.fonttype": "path",
    "svg.hashsalt": "harness",
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
}


@contextmanager
def plot_style() -> Iterator[None]:
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)
    defaults.pop("backend")
    with mpl.rc_context(defaults | _SETTINGS):  # a user's matplotlibrc must not change the figures
        yield


def new_figure(width: float, height: float) -> Figure:
    """In inches."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str) -> None:
    """`<name>.svg` where that is small, else `<name>.png`; no date, no version."""
    from PIL import Image

    figure.draw_without_rendering()  # lays out once for both formats
    figure.set_layout_engine("none")
    for axes in figure.axes:  # the layout's solver differs in the last bits from run to run
        axes.set_position(tuple(round(float(v), 6) for v in axes.get_position(original=True).bounds))  # type: ignore[arg-type]
    vectors = _Small()
    try:  # the canvases themselves: `savefig` draws everything twice
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            vectors, metadata={"Date": None, "Creator": None}
        )
    except _LargeError:
        figure.dpi = PNG_DPI  # an SVG has 72
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        picture = _with_few_colours(Image.fromarray(pixels).convert("RGB"))
        picture.save(folder / f"{name}.png", optimize=True, dpi=(PNG_DPI, PNG_DPI))
    else:
        (folder / f"{name}.svg").write_bytes(vectors.getvalue())


class _LargeError(Exception):
    """More than _SVG_BYTES were written."""


class _Small(BytesIO):
    def write(self, content: Any) -> int:
        if self.tell() + len(content) > _SVG_BYTES:
            raise _LargeError
        return super().write(content)


def _with_few_colours(picture: Any) -> Any:
    """PIL image with a palette, every pixel in the nearest of its colours; the surfaces of a plot keep theirs."""
    from PIL import Image

    red, green, blue = (np.asarray(band).astype(np.int64) for band in picture.split())
    pixels = red << 16 | green << 8 | blue
    colours, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    spread = picture.quantize(_OTHER, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette()[: 3 * _OTHER]
    values = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
    palette = np.concatenate([values[np.argsort(-counts, kind="stable")[:_FREQUENT]], np.reshape(spread, (-1, 3))])
    nearest = ((values[:, None] - palette) ** 2).sum(2).argmin(1)
    reduced = Image.fromarray(nearest[places].reshape(pixels.shape).astype(np.uint8), "P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


def kind_of(board: Leaderboard, label: int) -> str:
    """A key of KINDS."""
    kind = kind_of_strategy(board.selection.strategies[board.selection.labels[label]])
    return "reference" if kind == "plain KD" and label != board.baseline else kind


def shown(text: str) -> str:
    """A name as it is: no mathematics in it."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: int = 22) -> str:
    """A long name on two lines, broken at a bracket or underscore near its middle."""
    if len(text) <= width:
        return shown(text)
    places = [i + 1 for i, letter in enumerate(text[:-1]) if letter in "(_ -"] or [len(text) // 2]
    place = min(places, key=lambda i: abs(i - len(text) / 2))
    return shown(text[:place]) + "\n" + shown(text[place:])


def small_multiples(count: int, width: float = 1.75, height: float = 1.35, columns: int = 5) -> tuple[Figure, list[Axes]]:
    """`count` panels in rows; the last row may be shorter. No empty panels."""
    columns = min(columns, math.ceil(count / math.ceil(count / columns)))
    rows = math.ceil(count / columns)
    figure = new_figure(max(columns * width, 3.2), rows * height + 0.35)
    grid = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(grid[i // columns, i % columns]) for i in range(count)]


def kind_legend(figure: Figure, kinds: set[str], others: Sequence[Line2D] = (), **where: Any) -> None:
    """What the markers stand for, and whatever else the figure has, in as few rows as its width allows."""
    present = [kind for kind in KINDS if kind in kinds]
    handles = [Line2D([], [], linestyle="none", markersize=5, label=kind, **KINDS[kind]) for kind in present]
    handles += others
    if len(handles) > 1:
        columns = min(len(handles), max(1, int(figure.get_figwidth() / _LEGEND_ENTRY)))
        figure.legend(handles=handles, ncols=columns, **({"loc": "outside lower center"} | where))
