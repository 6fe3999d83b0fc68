"""The page in a real browser, without a window. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report import Report, build_report
from harness.report.leaderboard import Leaderboard, make_leaderboard
from harness.report.plots import PLOTS
from harness.stats.aggregate import win_rates
from harness.stats.multiple import holm
from harness.stats.ranks import critical_difference, mean_ranks
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

    def column(self, header: str) -> list[str]:
        """First lines of a column of the leaderboard, from top to bottom."""
        headers = self.page.locator("#board thead th").all_inner_texts()
        place = [text.split(" ↕")[0].split(" ↑")[0].split(" ↓")[0].strip() for text in headers].index(header)
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


def test_it_renders_the_leaderboard(page: Opened, shown: Leaderboard) -> None:
    names = [shown.selection.labels[i] for i in shown.order]
    assert page.column("Strategy") == names
    assert page.column("Normalised") == [f"{shown.normalised.value[i]:.2f}".replace("-0.00", "0.00") for i in shown.order]
    assert page.page.locator("figure img").count() == len(PLOTS)
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


def test_it_filters_by_name_without_changing_figures(page: Opened) -> None:
    before = dict(zip(page.column("Strategy"), page.column("Rank"), strict=True))
    page.page.fill("#find", "RW")
    assert set(page.column("Strategy")) == {"rw_kd", "shuffled(rw_kd)"}
    assert dict(zip(page.column("Strategy"), page.column("Rank"), strict=True)).items() <= before.items()
    page.page.fill("#find", "no such")
    assert page.column("Strategy") == []


def test_relative_figures_follow_the_chosen_strategies(page: Opened, shown: Leaderboard) -> None:
    labels = shown.selection.labels
    out = {"ce_only", "shuffled(rw_kd)", "random_weights"}
    page.page.locator(".choice summary").click()
    for name in sorted(out):
        page.page.locator("#chosen label").get_by_text(name, exact=True).click()
    kept = [i for i in shown.order if labels[i] not in out]
    assert page.column("Strategy") == [labels[i] for i in kept]
    scores = shown.selection.scores[kept]
    assert [float(text) for text in page.column("Rank")] == pytest.approx(mean_ranks(scores.mean(-1)).tolist(), abs=0.051)
    wins = win_rates(scores)
    expected = [sum(row[j] for j in range(len(kept)) if j != i) / (len(kept) - 1) for i, row in enumerate(wins)]
    assert [float(text.split()[0]) for text in page.column("Win rate")] == pytest.approx([100 * w for w in expected], abs=0.51)
    p = holm(shown.gain_p[kept])
    got = page.column("p (Holm)")
    assert [text for text in got if text != "–"] == [f"{value:.3f}" for value in p if value == value]
    note = page.page.locator("#relative").inner_text()
    assert f"among these {len(kept)}" in note
    assert not any(name in note.replace("shuffled(rw_kd)", "") for name in ("ce_only", "random_weights"))
    assert f"closer than {critical_difference(len(kept), len(shown.selection.tasks)):.1f}" in note
    page.page.locator("#choose-none").click()
    assert page.column("Strategy") == []
    page.page.locator("#choose-all").click()
    assert len(page.column("Strategy")) == len(labels)


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


def test_holes_withhold_ranks_until_they_are_taken_out(browser: Any, holes: Path) -> None:
    build_report(holes)
    opened = Opened(browser, holes / "index.html", 1400)
    headers = " ".join(opened.page.locator("#board thead th").all_inner_texts())
    assert "Rank" not in headers
    assert "withheld: cells of wsl are missing" in opened.page.locator("#relative").inner_text()
    assert "withheld" in opened.column("Mean")
    opened.page.locator(".choice summary").click()
    opened.page.locator("#chosen label").get_by_text("wsl", exact=True).click()
    assert sorted(opened.column("Rank"))[0] in ("1.0", "1.5")
    opened.page.close()


def test_names_cannot_break_out(browser: Any, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    build_store(tmp_path / "odd", Planted(("sst2",), ("fixed_alpha", name), repeats=1, trials=1, rows=20))
    build_report(tmp_path / "odd")
    opened = Opened(browser, tmp_path / "odd" / "index.html", 800)
    dialogs: list[str] = []
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    assert name in opened.column("Strategy")
    assert opened.page.locator("#board img").count() == 0
    assert dialogs == []
    assert opened.said == []
    opened.page.close()
