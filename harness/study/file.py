"""Reading a study: YAML, then `--set` overrides, then the schema. Every error says where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import StudyError
from harness.study.overrides import apply_override
from harness.study.schema import Study
from harness.study.schema_errors import faults, nearest
from harness.study.yaml_lines import KeyPath, read_yaml


@dataclass(frozen=True)
class Origins:
    """Where each part of a study came from."""

    path: Path
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overridden: Mapping[KeyPath, str] = field(default_factory=dict)
    """Path of keys -> the `--set` argument that gave it."""

    def place(self, where: KeyPath) -> str:
        """Origin of the deepest known part of `where`: an override, or file and line."""
        for depth in range(len(where), -1, -1):
            part = where[:depth]
            if part in self.overridden:
                return f"--set {self.overridden[part]}"
            if part in self.lines:
                return f"{self.path}:{self.lines[part]}"
        return str(self.path)

    def describe(self, where: KeyPath, text: str) -> str:
        """One fault: place, keys, what is wrong."""
        dotted = f"{'.'.join(map(str, where))}: " if where else ""
        return f"{self.place(where)}: {dotted}{text}"


@dataclass(frozen=True)
class StudyFile:
    """A study, and where each part of it came from."""

    study: Study
    origins: Origins

    @property
    def path(self) -> Path:
        return self.origins.path

    @property
    def base(self) -> Path:
        """Where the study's relative paths of plugins and task files start."""
        return self.path.resolve().parent

    @contextmanager
    def locating_errors(self) -> Iterator[None]:
        """Prefix the StudyErrors raised inside with their place and keys."""
        try:
            yield
        except StudyError as error:
            raise StudyError(self.origins.describe(error.where, str(error)), error.where) from error


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The validated study. Raises StudyError."""
    return read_study(path, overrides).study


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyFile:
    """The validated study with its origins.

    `overrides` are `key.path=value`, the later one wins, or `key.path+=item`. Raises StudyError.
    """
    file = Path(path)
    if not file.is_file():
        raise StudyError(f"{file}: no such study file.{_nearest_file(file)}")
    content, lines = read_yaml(file)
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise StudyError(f"{file}: a study is a mapping of keys (name, tasks, strategies, models, ...), found {found}")
    origins = _apply_all(content, Origins(file, lines), overrides)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise StudyError("\n".join(origins.describe(*fault) for fault in faults(error, content, Study))) from error
    return StudyFile(study, origins)


def _apply_all(content: dict[str, Any], origins: Origins, overrides: Sequence[str]) -> Origins:
    lines, overridden = dict(origins.lines), dict(origins.overridden)
    for override in overrides:
        made = apply_override(content, override)
        for replaced in made[-1:]:  # what stood there before explains nothing any more
            for known in (lines, overridden):
                for path in [path for path in known if path[: len(replaced)] == replaced]:
                    del known[path]
        for path in made:
            overridden[path] = override
    return Origins(origins.path, lines, overridden)


def _nearest_file(file: Path) -> str:
    folder = file.parent if file.parent.is_dir() else Path()
    known = sorted(path.name for path in folder.glob("*.y*ml"))
    hint = nearest(file.name, known)
    return f"{hint} In {folder}: {', '.join(known)}" if known else ""
