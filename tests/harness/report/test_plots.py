from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from harness.report import Report
from harness.report.leaderboard import Leaderboard, make_leaderboard
from harness.report.plots import PLOTS, write_plots
from harness.report.plots.cost import NAMES_AT, draw_cost, name_rows
from harness.report.plots.matrices import draw_gains, draw_ranks, draw_wins
from harness.report.plots.scores import draw_forest, draw_scores
from harness.report.plots.search import draw_progress, draw_responses
from harness.report.plots.style import plot_style, save
from harness.report.plots.weights import draw_flips, draw_shares, draw_teacher, draw_trajectories
from tests.harness.report.stores import THIRTY, Planted, build_store

DRAW = (draw_forest, draw_scores, draw_gains, draw_wins, draw_ranks, draw_cost, draw_progress, draw_responses,
        draw_trajectories, draw_teacher, draw_shares, draw_flips)  # fmt: skip


NOT_DRAWN = {
    *(("two", draw) for draw in (draw_ranks, draw_shares)),  # of one task and teacher
    *(("thirty", draw) for draw in (draw_ranks, draw_wins)),  # too many for pictures of pairs
    *((size, draw_progress) for size in ("board", "thirty")),  # searches of two trials
}


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    path = tmp_path_factory.mktemp("thirty")
    build_store(path, Planted(("cola", "rte"), THIRTY, trials=2, rows=40, flipped=0.2))
    return make_leaderboard(path, draws=100)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    """The least there can be to compare."""
    path = tmp_path_factory.mktemp("two")
    build_store(path, Planted(("sst2",), ("fixed_alpha", "wsl"), repeats=1, trials=4, rows=40, flipped=0.2))
    return make_leaderboard(path, draws=100)


def figures(drawn: Figure | list[Figure] | str) -> list[Figure]:
    assert not isinstance(drawn, str), drawn
    return drawn if isinstance(drawn, list) else [drawn]


def overlaps(figure: Figure) -> list[str]:
    """Pairs of texts that cover one another, and texts that leave the figure. Boxes may touch by a pixel."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    drawn: list[Text] = []
    draw = Text.draw

    def noted(self: Text, *arguments: object, **named: object) -> None:
        drawn.append(self)  # ticks outside the limits exist and are not drawn
        draw(self, *arguments, **named)

    with patch.object(Text, "draw", noted):
        figure.draw(renderer)
    texts = [text for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in texts]
    page = figure.bbox
    found = [
        f"{name!r} is cut" for name, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1
    ]
    corners = np.array([box.get_points() for _, box in boxes])  # [texts, low and high, x and y]
    common = np.minimum(corners[:, None, 1], corners[None, :, 1]) - np.maximum(corners[:, None, 0], corners[None, :, 0])
    pairs = np.argwhere(np.triu((common > 1).all(2), 1))
    return found + [f"{boxes[i][0]!r} over {boxes[j][0]!r}" for i, j in pairs]


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("size", ["two", pytest.param("board", marks=pytest.mark.slow), "thirty"])
def test_no_text_covers_another_or_is_cut(draw: object, size: str, request: pytest.FixtureRequest) -> None:
    assert callable(draw)
    with plot_style():
        drawn = draw(request.getfixturevalue(size))
        if (size, draw) in NOT_DRAWN:
            assert isinstance(drawn, str)
            return
        for figure in figures(drawn):
            assert overlaps(figure) == []
            for axes in figure.axes:
                assert axes.has_data() or axes.texts, "an empty panel"


def test_gains_by_share_of_flipped_labels_stand_below_those_over_tasks(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2", "rte"), ("fixed_alpha", "wsl"), repeats=2, trials=1, rows=40, flipped=0.2))
    manifest = store.manifest()
    manifest["study"]["data_per_task"] = {"rte": {"label_noise": 0.4}}
    store.write_manifest(manifest)
    board = make_leaderboard(tmp_path, draws=100)
    with plot_style():
        (figure,) = figures(draw_forest(board))
        assert overlaps(figure) == []
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["20 % of labels flipped", "40 % of labels flipped"]
    drawn = [100 * float(gains.value[1]) for gains in (board.gain, *board.noise_gains.values())]
    points = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    assert points == pytest.approx(drawn)


def test_overlaps_are_seen() -> None:
    figure = Figure(figsize=(2, 2))
    figure.text(0.5, 0.5, "one")
    figure.text(0.52, 0.5, "two")
    figure.text(0.99, 0.1, "cut off")
    assert len(overlaps(figure)) == 2


def test_all_plots_are_written_and_the_figures_state_is_left_alone(report: Report) -> None:
    assert [plot.name for plot in report.plots if plot.omitted] == ["best_so_far"]
    assert [plot.name for plot in report.plots] == [name for name, *_ in PLOTS]
    for path in report.files:
        assert path.stat().st_size > 500
    assert mpl.rcParams["svg.hashsalt"] is None


def test_a_picture_of_few_colours_looks_as_it_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.plots.style._SVG_BYTES", 0)
    with plot_style():
        figure = Figure(figsize=(3, 3), layout="constrained")
        figure.subplots().imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="PuOr")
        save(figure, tmp_path, "drawn")
        figure.savefig(tmp_path / "all.png")
    few = Image.open(tmp_path / "drawn.png")
    drawn, shown = (np.asarray(picture.convert("RGB")).astype(int) for picture in (Image.open(tmp_path / "all.png"), few))
    assert few.mode == "P"
    assert np.abs(drawn - shown).max() < 40
    assert np.abs(drawn - shown).mean() < 4
    white = (drawn == 255).all(2)
    assert (shown[white] == 255).all()


def test_only_a_small_vector_graphic_is_kept(tmp_path: Path) -> None:
    with plot_style():
        for points in (10, 20_000):
            figure = Figure()
            figure.subplots().plot(np.random.default_rng(0).normal(size=points))
            save(figure, tmp_path, f"{points}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.svg", "20000.png"]


def test_what_has_no_data_is_left_out_with_a_reason(tmp_path: Path) -> None:
    build_store(tmp_path / "store", Planted(("sst2",), ("fixed_alpha", "rw_kd"), repeats=1, trials=1, rows=30))
    plots_folder = tmp_path / "plots"
    plots_folder.mkdir()
    (plots_folder / "flipped_labels.png").write_bytes(b"of an earlier report")
    plots = write_plots(make_leaderboard(tmp_path / "store", draws=50), plots_folder)
    omitted = {plot.name: plot.omitted for plot in plots if plot.omitted}
    assert set(omitted) == {"critical_difference", "best_so_far", "hyperparameters", "teacher_shares", "flipped_labels"}
    assert "4 trials" in omitted["best_so_far"]
    assert not (plots_folder / "flipped_labels.png").exists()


def test_missing_cells_draw_no_ranks(board_with_holes: Leaderboard) -> None:
    assert isinstance(draw_ranks(board_with_holes), str)
    with plot_style():
        figure = figures(draw_gains(board_with_holes))[0]
        wins = figures(draw_wins(board_with_holes))[0]
    assert sum(patch.get_hatch() is not None for patch in figure.axes[0].patches) == 2  # sst2, and the mean over tasks
    assert [label.get_text() for label in wins.axes[0].get_yticklabels()] == [
        board_with_holes.selection.labels[i] for i in board_with_holes.order[:-1]
    ]


def test_numbers_in_the_heat_map_are_the_gains(board: Leaderboard) -> None:
    with plot_style():
        figure = figures(draw_gains(board))[0]
    texts = [t.get_text().rstrip("*†‡").replace("−", "-") for t in figure.axes[0].texts]
    order = [i for i in board.order if i != board.baseline]
    want = np.concatenate([board.difference[order], board.gain.value[order, None]], axis=1) * 100
    np.testing.assert_allclose([float(t) for t in texts], want.ravel(), atol=0.051)


def crossings(starts: np.ndarray, rows: np.ndarray) -> int:
    """Of the lines from points to rows: for two of them, at how many places left of the names one changes sides."""
    found = 0
    for (x, y), row in zip(starts, rows, strict=True):
        for (other_x, other_y), other_row in zip(starts, rows, strict=True):
            if other_x > x:
                height_there = y + (row - y) * (other_x - x) / (NAMES_AT - x)
                found += (height_there - other_y) * (row - other_row) < -1e-9
    return found


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=30, unique=True))
def test_lines_to_names_do_not_cross(places: list[tuple[int, int]]) -> None:
    points = np.array(places) / 1000
    rows = name_rows(points, step=0.03)
    assert not crossings(points, rows)
    assert np.diff(np.sort(rows)).min() > 0.0299
    assert -1e-9 <= rows.min() <= rows.max() <= 1 + 1e-9


def test_names_are_no_formulas(tmp_path: Path) -> None:
    build_store(tmp_path, Planted(("sst2",), ("fixed_alpha", "a$b_{c}$ <i>"), repeats=1, trials=1, rows=30))
    board = make_leaderboard(tmp_path, draws=50)
    write_plots(board, tmp_path / "plots")
