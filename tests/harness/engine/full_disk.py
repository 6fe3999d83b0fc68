"""A study on a disk that fills up: python -m tests.harness.engine.full_disk FOLDER. Needs a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.engine import inline
from harness.errors import StoreError
from harness.store.store import Store
from harness.watching.console import Console
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train


def run(folder: Path) -> Store:
    plan, prepared = stand_in_plan(stand_in_study(["a", "b", "c"], search={"trials": 6}))
    store = Store(folder / "small" / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), folder, train=stand_in_train)
    return store


if __name__ == "__main__":
    root = Path(sys.argv[1])
    (root / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(root / "small")], check=True)
    (root / "small" / "filler").write_bytes(bytes(300_000))
    try:
        run(root)
    except StoreError as error:
        sys.stdout.write(f"first run: {error}\n")
    store = Store(root / "small" / "store")
    before = {record.key: record.finished_at for record in store.records()}
    assert 0 < len(before) < 18, len(before)
    assert not store.damaged
    assert not list(store.path.rglob(".unfinished*"))
    (root / "small" / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(root / "small")], check=True)
    after = {record.key: record.finished_at for record in run(root).records()}
    assert len(after) == 18
    assert before.items() <= after.items()
    sys.stdout.write(f"second run: {len(after) - len(before)} more\n")
