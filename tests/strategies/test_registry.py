from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import strategies
from strategies import load_plugin, resolve, strategy_names
from strategies.registry import UnknownStrategyError

PLUGIN = """
from strategies import Normalisation, Strategy, register
{imports}
@register
class Mine(Strategy):
    name = "{name}"
    family = summary = paper = "mine"
    sample_wise = False
    normalisation = Normalisation.CONVEX
    def weights(self, context):
        return {{"ce": 0.25, "kd": 0.75}}
"""


def write(file: Path, name: str, imports: str = "") -> Path:
    file.write_text(PLUGIN.format(name=name, imports=imports))
    return file


def test_a_plugin_registers_once_however_often_it_is_loaded(tmp_path):
    file = write(tmp_path / "mine.py", "registered_once")
    load_plugin(file)
    first = resolve("registered_once").strategy
    load_plugin(str(file))
    assert resolve("registered_once").strategy is first
    assert str(file) in resolve("registered_once").origin


def test_a_built_in_file_given_as_a_plugin_is_not_imported_twice():
    before = resolve("wsl").strategy
    load_plugin(Path(strategies.__file__).parent / "heuristics" / "wsl.py")
    assert resolve("wsl").strategy is before


def test_a_name_taken_twice_names_both_origins(tmp_path):
    with pytest.raises(ValueError, match="taken twice") as caught:
        load_plugin(write(tmp_path / "clash.py", "wsl"))
    assert "clash.py" in str(caught.value)
    assert "wsl.py" in str(caught.value)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownStrategyError, match="Did you mean 'rw_kd'"):
        resolve("rwkd")
    with pytest.raises(UnknownStrategyError, match=r"unknown wrapper 'shuffle'.*Did you mean 'shuffled'"):
        resolve("shuffle(rw_kd)")


def test_an_entry_point_registers_a_strategy(tmp_path, monkeypatch):
    write(tmp_path / "packaged_strategy.py", "from_a_package")
    info = tmp_path / "packaged_strategy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged-strategy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness.strategies]\nmine = packaged_strategy:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    strategies.registry.load_builtin_strategies.cache_clear()
    try:
        assert resolve("from_a_package").strategy.__module__ == "packaged_strategy"
    finally:
        strategies.registry._strategies.pop("from_a_package")
        sys.modules.pop("packaged_strategy", None)


def test_wrappers_nest_and_count_in_the_digest():
    assert [w.name for w in resolve("mean_one( shuffled(wsl) )").wrappers] == ["mean_one", "shuffled"]
    assert resolve("shuffled(wsl)").code_digest != resolve("wsl").code_digest


def test_a_built_in_strategy_is_in_the_module_of_its_name_and_found_without_the_others():
    for name in strategy_names():
        origin = resolve(name).strategy.__module__
        assert not origin.startswith("strategies.") or origin.rpartition(".")[2] == name
    code = "import sys; from strategies import resolve; resolve('shuffled(wsl)'); print(*sys.modules, sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "strategies.heuristics.wsl" in found
    assert "strategies.meta_learned.rw_kd" not in found
