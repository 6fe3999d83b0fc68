"""The page in a real browser, without a window. Skipped where there is no Chromium."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote

import numpy as np
import pytest

from harness.report import Report, build_report
from harness.report.finding import finding
from harness.report.leaderboard import Leaderboard, make_leaderboard
from harness.report.page import DRAWN_HERE
from harness.report.plots import PLOTS
from harness.stats.measures import MEASURES
from strategies.registry import resolve
from tests.harness.report.stores import Planted, build_store

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (on Debian: apt-get install chromium)")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[test]')")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A page, with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int) -> None:
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def heads(self) -> list[str]:
        headers = self.page.locator("#board thead th").all_inner_texts()
        return [text.split(" ↕")[0].split(" ↑")[0].split(" ↓")[0].strip() for text in headers]

    def column(self, header: str) -> list[str]:
        """First lines of a column of the leaderboard, from top to bottom."""
        place = self.heads().index(header)
        cells = self.page.locator(f"#board tbody tr > :nth-child({place + 1})").all_inner_texts()
        return [cell.split("\n")[0] for cell in cells]

    def sort(self, header: str) -> None:
        self.page.locator("#board thead button").get_by_text(header, exact=True).click()


@pytest.fixture
def page(browser: Any, report: Report) -> Iterator[Opened]:
    opened = Opened(browser, report.folder / "index.html", 1400)
    yield opened
    outside = [url for url in opened.requests if not url.startswith(("file:", "data:"))]
    opened.page.close()
    assert opened.said == []
    assert outside == []


@pytest.fixture(scope="module")
def shown(study: Path) -> Leaderboard:
    return make_leaderboard(study)


@pytest.fixture(scope="module")
def page_with_holes(holes: Path) -> Path:
    return with_one_plot(holes)


def with_one_plot(store: Path) -> Path:
    """The page of a store; `report` has all plots."""
    with patch("harness.report.plots.PLOTS", PLOTS[:1]):
        return build_report(store).folder / "index.html"


def test_it_renders_the_leaderboard(page: Opened, shown: Leaderboard) -> None:
    names = [shown.selection.labels[i] for i in shown.order]
    assert page.column("Strategy") == names
    assert page.column("Normalised") == [f"{shown.normalised[i]:.2f}".replace("-0.00", "0.00") for i in shown.order]
    assert page.column("Verdict") == [shown.verdict(i) or "–" for i in shown.order]
    assert page.page.locator(".answer").inner_text() == finding(shown)[0].replace("`", "")
    assert page.page.locator("figure img").count() == len(PLOTS) - len(DRAWN_HERE) - 1  # and no search is long enough
    assert page.page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")
    assert "†" in page.column("rte acc")[names.index("wsl")]


def test_it_sorts_both_ways(page: Opened) -> None:
    page.sort("cola Matthews")
    first = [float(text.split()[0]) for text in page.column("cola Matthews")]
    assert first == sorted(first, reverse=True)
    page.sort("cola Matthews")
    assert [float(text.split()[0]) for text in page.column("cola Matthews")] == sorted(first)
    page.sort("Strategy")
    names = page.column("Strategy")
    assert names == sorted(names, key=str.lower)
    assert page.page.locator("#board th[aria-sort=ascending]").count() == 1


def test_it_finds_names_families_and_papers_but_no_settings(page: Opened, shown: Leaderboard) -> None:
    page.page.fill("#find", "RW")
    assert set(page.column("Strategy")) >= {"rw_kd", "shuffled(rw_kd)"}
    page.page.fill("#find", "meta-learned")
    assert "rw_kd" in page.column("Strategy")
    assert "ce_only" not in page.column("Strategy")
    for nothing in ("no such", "hidden_size"):
        page.page.fill("#find", nothing)
        assert page.column("Strategy") == []
        assert page.page.locator("#forest .row").count() == 0
    page.page.fill("#find", "")
    page.page.locator("#families button").get_by_text("fixed", exact=True).click()
    family = {label for label, name in shown.selection.strategies.items() if resolve(name).strategy.family == "fixed"}
    assert set(page.column("Strategy")) == family > {"fixed_alpha"}


def figures(page: Opened) -> dict[str, tuple[str, ...]]:
    """What the page says of each strategy: in the table, and in the forest plot."""
    wanted = ("Strategy", "Gain over fixed_alpha", "Verdict", "p", "Rank")
    rows, drawn = page.page.evaluate(
        """(wanted) => {
            const heads = [...document.querySelectorAll('#board thead th')]
                .map((head) => head.innerText.split(/ [↕↑↓]/)[0].trim());
            const places = wanted.map((head) => heads.indexOf(head));
            const rows = [...document.querySelectorAll('#board tbody tr')].map((row) => [
                ...places.map((place) => row.children[place].innerText.split('\\n')[0]),
                row.querySelector('.better, .worse, .undecided, .equivalent')?.className || '',
            ]);
            const drawn = [...document.querySelectorAll('#forest .row')]
                .map((row) => [row.querySelector('title').textContent, row.querySelector('.said').textContent]);
            return [rows, drawn];
        }""",
        wanted,
    )
    said = {title.split(":")[0]: title + text for title, text in drawn}
    return {row[0]: (*row[1:], said.get(row[0], "")) for row in rows}


def test_nothing_that_a_reader_does_changes_a_p_or_a_verdict(page: Opened, shown: Leaderboard) -> None:
    before = figures(page)
    primary = {label for label in shown.selection.labels if label in shown.declared.primary}
    assert {name for name, (_, verdict, *_) in before.items() if verdict != "–"} == primary
    for name, (_, _, p, *_) in before.items():
        one = shown.comparisons[shown.selection.labels.index(name)]
        assert p == ("–" if one is None or name not in primary else f"{one.p:.3f}")
    buttons = page.page.locator("#leaderboard button")
    names = [name for name in buttons.all_inner_texts() if name not in ("Over tasks", "SVG", "PNG", "CSV")]
    for name in names:  # but the one that puts away the columns that are read here
        found = page.page.locator("#leaderboard button", has_text=re.compile(f"^{re.escape(name)}$"))
        for _ in range(2):
            if found.count():  # a column's, and it is not put away
                found.first.evaluate("(button) => button.click()")  # without the wait for animations
                assert figures(page).items() <= before.items()
    for words in ("rw", "zhou", "adaptive", ""):
        page.page.fill("#find", words)
        assert figures(page).items() <= before.items()


def test_a_link_shows_what_was_looked_at(browser: Any, page: Opened) -> None:
    page.page.fill("#find", "kd")
    page.sort("Mean")
    page.page.get_by_role("button", name="Each task").click()
    link = page.page.evaluate("location.href")
    other = browser.new_page(viewport={"width": 1400, "height": 900})
    other.goto(link)
    assert other.locator("#board").inner_text() == page.page.locator("#board").inner_text()
    assert other.locator("#find").input_value() == "kd"
    other.close()


@pytest.mark.parametrize("plot", [*DRAWN_HERE, "learning"])
def test_what_is_drawn_here_follows_the_table_and_can_be_taken_along(page: Opened, tmp_path: Path, plot: str) -> None:
    figure = page.page.locator(f"figure[data-plot={plot}]")
    for kind, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("CSV", b"label,")):
        with page.page.expect_download() as waited:
            figure.locator(f"[data-save={kind}]").click()
        waited.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)
    svg = (tmp_path / "SVG").read_text("utf-8")
    assert "rw_kd" in svg
    assert "NaN" not in svg
    page.page.fill("#find", "wsl")
    assert "rw_kd" not in figure.locator("div").inner_html()
    page.page.fill("#find", "no such")
    assert figure.locator("svg").count() == 0
    assert not figure.locator(".files").is_visible()


def test_curves_are_those_of_the_trials(page: Opened, shown: Leaderboard, tmp_path: Path) -> None:
    with page.page.expect_download() as waited:
        page.page.locator("figure[data-plot=learning] [data-save=CSV]").click()
    waited.value.save_as(tmp_path / "curves.csv")
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text("utf-8").splitlines()))
    for label in ("rw_kd", "fixed_alpha"):
        records = [row.record for row in shown.selection.of(label) if row.record and row.record.epochs]
        reached = range(min(len(record.epochs) for record in records))
        metric = [record.spec.task.headline_metric for record in records]
        want = [np.mean([r.epochs[k].select.get(m, np.nan) for r, m in zip(records, metric, strict=True)]) for k in reached]
        found = [float(row["value"]) for row in rows if row["label"] == label]
        assert found == pytest.approx(want, abs=1e-4)


def test_further_columns_are_one_click_away(page: Opened, shown: Leaderboard) -> None:
    assert not any(measure.title in page.heads() for measure in MEASURES.values())
    page.page.get_by_role("button", name="Probabilities").click()
    assert all(measure.title in page.heads() for measure in MEASURES.values())
    place = shown.selection.labels.index("rw_kd")
    assert page.column("NLL")[page.column("Strategy").index("rw_kd")] == f"{shown.measures['nll'].value.value[place]:.3f}"
    page.page.get_by_role("button", name="Each class").click()
    assert "cola acceptable" in page.heads()
    page.page.locator("[data-view=noise]").click()
    assert "Finds flips" in page.heads()
    link = page.page.evaluate("location.href")
    assert "measures,classes,noise" in unquote(link)


def violations(browser: Any, path: Path, scheme: Any) -> list[tuple[str, list[Any]]]:
    """What axe-core has to say of the page with everything opened."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme=scheme)
    page.goto(path.as_uri())
    page.get_by_role("button", name="Probabilities").click()
    page.locator("#trial-table tbody button").first.click()
    page.locator("summary").first.click()
    found = axe.run(page)
    page.close()
    return [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found.response["violations"]]


def test_axe_finds_nothing(browser: Any, page_with_holes: Path) -> None:
    assert violations(browser, page_with_holes, "light") == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_large_page(browser: Any, report: Report, scheme: str) -> None:
    assert violations(browser, report.folder / "index.html", scheme) == []


def test_columns_can_be_put_away(page: Opened) -> None:
    page.page.get_by_role("button", name="Each task").click()
    headers = page.page.locator("#board thead th").all_inner_texts()
    assert not any("cola" in header for header in headers)
    assert any("Time" in header for header in headers)


def test_trials_are_found_and_say_how_to_run_them_again(page: Opened, shown: Leaderboard) -> None:
    count = len(shown.selection.records)
    assert page.page.locator("#trial-table tbody tr").count() == 50
    assert page.page.locator("#trial-page").inner_text() == f"1 to 50 of {count}"
    page.page.locator("#trial-next").click()
    assert page.page.locator("#trial-page").inner_text() == f"51 to 100 of {count}"
    page.page.select_option("#trial-status", "failed")
    assert page.page.locator("#trial-page").inner_text() == "1 to 2 of 2"
    page.page.locator("#trial-table tbody button").first.click()
    detail = page.page.locator("td.detail").inner_text()
    failed = next(r for r in shown.selection.records if r.status == "failed")
    assert f"python -m harness reproduce results/planted {failed.key}" in detail
    assert "<script>alert(1)</script>" in detail  # as text
    page.page.select_option("#trial-status", "")
    page.page.select_option("#trial-task", "cola")
    page.page.fill("#trial-find", "rw_kd shuffled")
    assert page.page.locator("#trial-page").inner_text() == "1 to 4 of 4"


def test_failures_and_manifest_are_there(page: Opened) -> None:
    page.page.locator("#failures summary").first.click()
    assert "diverged" in page.page.locator("#failures details").first.inner_text()
    page.page.locator("#provenance summary", has_text="Manifest").click()
    assert "0123456789abcdef" in page.page.locator("#provenance pre").inner_text()


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_sticks_out(browser: Any, report: Report, width: int) -> None:
    opened = Opened(browser, report.folder / "index.html", width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.locator("#board tbody tr").count() > 0
    opened.page.close()


def test_holes_withhold_ranks_and_averages(browser: Any, page_with_holes: Path) -> None:
    opened = Opened(browser, page_with_holes, 1400)
    headers = " ".join(opened.page.locator("#board thead th").all_inner_texts())
    assert "Rank" not in headers
    assert "withheld" in opened.column("Mean")
    assert opened.page.locator("#forest .row").count() == 2  # of four: plain KD, and one with a hole
    opened.page.close()


def test_names_cannot_break_out(browser: Any, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    build_store(tmp_path / "odd", Planted(("sst2",), ("fixed_alpha", name), repeats=1, trials=1, rows=20))
    opened = Opened(browser, with_one_plot(tmp_path / "odd"), 800)
    dialogs: list[str] = []
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    assert name in opened.column("Strategy")
    assert opened.page.locator("#board img").count() == 0
    assert dialogs == []
    assert opened.said == []
    opened.page.close()
