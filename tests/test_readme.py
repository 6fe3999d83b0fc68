"""READMEs: what they name exists, and their commands run or say what they need. Their figures: `test_results.py`."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.__main__ import main
from harness.commands.strategy_table import strategy_table
from harness.training.trial import train_trial
from strategies import resolve, strategy_names
from tests.benchmarks.__main__ import BENCHMARKS
from tests.conftest import PROJECT
from tests.harness.tiny import default_specs, tiny_study
from tests.test_results import PUBLISHED

ROOMS = ("harness", "strategies", "studies", "tests")
READMES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "results" / "README.md",
    *(file for room in ROOMS for file in sorted((PROJECT / room).rglob("README.md"))),
    *(store / "README.md" for store in PUBLISHED),
]
NEEDS = "# needs: "


def shown(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def blocks(text: str, *languages: str) -> list[str]:
    return [
        body for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if language in languages
    ]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Command and comment of every line of the blocks for a shell."""
    for body in blocks(text, "", "sh", "bash", "console"):
        for line in body.splitlines():
            command, _, comment = line.partition("    #")
            if command.strip():
                yield command.strip(), f"#{comment}" if comment else ""


def unmarked(file: Path) -> list[str]:
    return [command for command, comment in commands(file.read_text("utf-8")) if not comment.startswith(NEEDS)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working copy with the studies, one published store, and the README's strategy."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("results/planted_truth", "studies"):
        shutil.copytree(PROJECT / name, folder / name)
    for name in ("README.md", "results/README.md"):
        shutil.copy(PROJECT / name, folder / name)
    (block,) = blocks((PROJECT / "README.md").read_text("utf-8"), "python")
    (folder / "trust.py").write_text(block)
    return folder


def test_the_example_trains_as_a_plugin(copy: Path, tmp_path: Path) -> None:
    """It passes conformance, too: one of the commands below."""
    (spec,) = default_specs(tiny_study(plugins=[str(copy / "trust.py")], strategies=["trust"]), tmp_path / "cache")
    record = train_trial(spec, tmp_path / "cache").record
    weights = record.epochs[-1].weights
    assert weights["ce"].mean + weights["kd"].mean == pytest.approx(1, abs=1e-5)
    assert record.spec.settings == {"power": 2.0}


@pytest.mark.parametrize("file", [file for file in READMES if unmarked(file)], ids=shown)
def test_it_runs_what_it_says(file: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the file, in a copy. What trains runs without Ray, for an epoch."""
    monkeypatch.chdir(copy)
    for command in unmarked(file):
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"], f"{command}: no test runs it; mark it with `{NEEDS}...`"
        assert words[2].split(".")[0] == "harness", f"{command}: no test runs it; mark it with `{NEEDS}...`"
        verb = [] if words[2] == "harness" else [words[2].removeprefix("harness.")]
        arguments = [*verb, *words[3:]]
        inline = ["--engine", "inline", "--set", "training.epochs=1"] if arguments[0] == "run" else []
        assert main([*arguments, *inline]) == 0, command
    if file == PROJECT / "README.md":
        board = (copy / "results" / "own_data" / "leaderboard.md").read_text("utf-8")
        assert "| trust" in board
        assert "| wsl" in board


@pytest.mark.parametrize("file", READMES, ids=shown)
def test_what_it_links_to_is_there(file: Path) -> None:
    text = file.read_text("utf-8")
    for target in re.findall(r"\]\((?!\w+://)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        linked = file.parent / path if path else file
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}, target


@pytest.mark.parametrize("file", READMES, ids=shown)
def test_every_file_that_it_names_exists(file: Path) -> None:
    text = file.read_text("utf-8")
    named = set(
        re.findall(r"(?<![\w/.])(?:studies|tests|strategies|results|harness)/[a-z0-9_/]+\.(?:yaml|md|py|png|txt)\b", text)
    )
    assert not [name for name in named if not (PROJECT / name).is_file()]


def test_the_front_page_is_short() -> None:
    assert len((PROJECT / "README.md").read_text("utf-8").split()) <= 900


def test_the_task_of_your_own_is_the_one_of_the_study() -> None:
    (block,) = blocks((PROJECT / "README.md").read_text("utf-8"), "yaml")
    assert block in (PROJECT / "studies" / "own_data.yaml").read_text("utf-8")
    assert yaml.safe_load(block)["tasks"][0]["files"]


def test_the_table_of_strategies_is_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = (PROJECT / "strategies" / "README.md").read_text("utf-8")
    start, end = "<!-- python -m harness list strategies --markdown -->\n", "<!-- end -->"
    assert main(["list", "strategies", "--markdown"]) == 0
    written = capsys.readouterr().out
    assert written == strategy_table() + "\n"
    assert text.partition(start)[2].partition(end)[0] == written
    built_in = [name for name in strategy_names() if resolve(name).strategy.__module__.startswith("strategies.")]
    files = re.findall(r"\| \[`(\w+)`\]\(([\w/]+\.py)\)", written)
    assert sorted(name for name, _ in files) == built_in
    assert all((PROJECT / "strategies" / path).is_file() for _, path in files)


def test_the_map_has_every_room() -> None:
    text = (PROJECT / "harness" / "README.md").read_text("utf-8")
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    rooms = {name for layer in layers for name in re.findall(r"\w+", layer)}
    mapped = {name.removesuffix(".py").strip("/") for name in re.findall(r"`(\w+(?:/|\.py))`", text)}
    assert rooms <= mapped


def test_every_study_and_benchmark_has_its_line() -> None:
    studies = (PROJECT / "studies" / "README.md").read_text("utf-8")
    assert not [path.name for path in (PROJECT / "studies").glob("*.yaml") if f"]({path.name})" not in studies]
    benchmarks = (PROJECT / "tests" / "benchmarks" / "README.md").read_text("utf-8")
    assert not [name for name in BENCHMARKS if f"| `{name}` |" not in benchmarks]


def test_the_citation_and_the_hooks_are_whole() -> None:
    """With the fields that the Citation File Format 1.2.0 and pre-commit require."""
    from harness import __version__

    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == __version__
    hooks = [
        hook
        for repo in yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
        for hook in repo["hooks"]
    ]
    assert all({"id", "name", "entry", "language"} <= set(hook) for hook in hooks)
    checks = (PROJECT / ".ci" / "run").read_text("utf-8")
    tools = {" ".join(hook["entry"].split()[:2]) for hook in hooks if hook["id"] != "readme"}
    assert not [tool for tool in tools if tool not in checks]
