"""What is published travels light, and tells nothing of the machine that made it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.store.store import Store
from tests.conftest import PROJECT

ADDED = [line.strip("!/") for line in (PROJECT / ".gitignore").read_text().splitlines() if line.startswith("!results/")]
PUBLISHED = [folder for folder in (PROJECT / name for name in ADDED) if (folder / "manifest.json").exists()]


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_a_published_store_is_packed_whole_and_its_page_is_small(folder: Path) -> None:
    store = Store(folder)
    assert store.open_keys() == set()
    assert store.verify() == []
    assert set(store.manifest()["trials"]) <= set(store.keys())
    assert (folder / "index.html").stat().st_size < 1_500_000
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_no_packed_text_names_a_folder_of_the_machine_that_made_it(folder: Path) -> None:
    store = Store(folder)
    texts = [sealed.text.decode() for key in store.keys() if (sealed := store.sealed(key)) is not None]  # noqa: SIM118
    assert texts
    assert [text[:200] for text in (*texts, *store.event_lines()) if re.search(r"/(home|root|work|tmp|Users)/", text)] == []
