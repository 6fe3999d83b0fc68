"""Damage in a cache: found when it is opened, said, and mended; the numbers are as before."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.checksums import DamagedCacheError, check, remove_damaged, seal, sealed_folder
from harness.data.teacher_outputs import LOGITS, TeacherOutputs, teacher_folder
from harness.errors import StoreError
from harness.plan.plan import make_plan, trial_spec
from harness.teachers.prepare import prepare
from harness.training.failures import DISK_FULL, classify
from harness.training.trial import train_trial
from harness.watching.console import Console
from harness.whole_folder import whole_folder
from tests.harness.tiny import tiny_study


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(file: Path) -> None:
    file.unlink()


DAMAGES = [flip_a_bit, cut, remove]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_in_what_was_asked_for(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "digest"
    with sealed_folder(folder) as unfinished:
        (unfinished / "a").write_bytes(bytes(range(100)))
        (unfinished / "b").write_bytes(bytes(range(100)))
    with whole_folder(tmp_path / "more") as more:  # as outputs that come to a teacher later
        (more / "c").write_bytes(bytes(range(100)))
        for file in (more / "c", seal(more)):
            shutil.copy(file, folder)
    check(folder)
    damage(folder / "c")
    check(folder, ["a", "b"])
    with pytest.raises(DamagedCacheError, match="digest/c: it"):
        check(folder, ["a", "c"])
    assert remove_damaged(folder, ["a"]) is None
    assert "digest/c" in str(remove_damaged(folder))
    assert not folder.exists()
    assert remove_damaged(folder) is None


def test_checksums_that_cannot_be_read_are_damage_and_a_folder_without_is_none(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("x")
    check(tmp_path / "old", ["a"])
    with sealed_folder(tmp_path / "new") as unfinished:
        (unfinished / "a").write_text("x")
    (file,) = (tmp_path / "new").glob("checksums-*")
    cut(file)
    with pytest.raises(DamagedCacheError):
        check(tmp_path / "new")


@pytest.mark.parametrize("damage", [flip_a_bit, pytest.param(cut, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "files", ["data/*/fit.parquet", "tokens/*/tokens.npy", "tokenizers/*/tokenizer.json", "teachers/*/train_logits.npy"]
)
def test_a_damaged_cache_is_made_again_and_the_study_goes_on(
    tmp_path: Path, files: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tiny_study(), tmp_path)

    def run() -> tuple[list[float], list[str]]:
        spec = trial_spec(plan, plan.cells[0], 0, {}, prepare(plan, tmp_path, Console()))
        record = train_trial(spec, tmp_path).record
        return [epoch.train_loss for epoch in record.epochs], record.teacher_contents

    whole = run()
    assert "is made again" not in capsys.readouterr().out
    damaged = sorted(tmp_path.glob(files))
    assert damaged
    for file in damaged:
        damage(file)
    assert run() == whole
    said = capsys.readouterr().out
    assert said.count("its content is not what was written (checksums differ); it is made again") == len(damaged)


def test_a_teacher_that_is_damaged_while_trials_run_is_not_trained_on(tmp_path: Path) -> None:
    plan = make_plan(tiny_study(), tmp_path)
    spec = trial_spec(plan, plan.cells[0], 0, {}, prepare(plan, tmp_path, Console(quiet=True)))
    folder = teacher_folder(tmp_path, spec.teacher_digests[0])
    flip_a_bit(folder / LOGITS)
    with pytest.raises(DamagedCacheError, match="the same command makes it again") as raised:
        train_trial(spec, tmp_path)
    assert classify(raised.value).kind == "infrastructure"


def test_two_trainings_of_one_recipe_are_told_apart(tmp_path: Path) -> None:
    plan = make_plan(tiny_study(), tmp_path)
    digest = prepare(plan, tmp_path, Console(quiet=True))["sst2"].teacher_digests["teacher"]
    before = TeacherOutputs.load(tmp_path, digest)
    folder = teacher_folder(tmp_path, digest)
    logits = np.load(folder / LOGITS)
    np.save(folder / LOGITS, np.nextafter(logits, np.inf))  # as another processor might round
    for file in folder.glob("checksums-*"):
        file.unlink()
    seal(folder)
    after = TeacherOutputs.load(tmp_path, digest)
    assert after.report == before.report
    assert after.content != before.content


def test_a_teacher_that_finds_the_disk_full_ends_the_study_and_marks_no_trial(tmp_path: Path) -> None:
    def full(function: Any, items: Any) -> Any:
        for item in items:
            yield item, OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "teachers"))

    plan = make_plan(tiny_study(), tmp_path)
    with pytest.raises(StoreError, match=rf"no space left on the disk .* of the cache, says teacher .*{tmp_path / 'teachers'}"):
        prepare(plan, tmp_path, Console(quiet=True), full)


FULL = """
import sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from harness.whole_folder import whole_folder
subprocess = __import__("subprocess")
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(root)], check=True)
ways = [lambda f: np.save(f / "a.npy", np.zeros(10**6)), lambda f: save_file({"a": torch.zeros(10**6)}, f / "a.safetensors"),
        lambda f: (f / "a").write_bytes(bytes(10**6))]
for write in ways:
    try:
        with whole_folder(root / "cache" / "digest") as unfinished:
            write(unfinished)
    except OSError as error:
        print(error.errno, error.filename)
"""


def test_a_full_cache_is_an_error_that_names_it(tmp_path: Path) -> None:
    """On a real file system of 100 kB: NumPy and safetensors say in words of their own that there is no space."""
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if sys.platform != "linux" or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs leave to mount a file system")
    done = subprocess.run([*own, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{errno.ENOSPC} {tmp_path / 'cache'}"] * 3, done.stderr
    assert classify(OSError(errno.ENOSPC, "full", "cache")).type == DISK_FULL
