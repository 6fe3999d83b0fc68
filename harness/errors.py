"""Errors that are the user's to mend. The command line prints their text without a traceback and exits with 2."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text without what a terminal obeys: names and messages may come from a stranger's store or data."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class UserError(Exception):
    """What was given, what is allowed, the nearest match, and where it came from, in a paragraph."""


class StudyError(UserError):
    """A study file, or an override, that cannot be run."""

    def __init__(self, message: str, where: tuple[str | int, ...] = ()) -> None:
        """`where` is the path of keys in the study, from which `harness.study.file` finds file and line."""
        super().__init__(message)
        self.where = where


class DataError(UserError):
    """Rows that are missing or cannot be what the task says."""


class ModelError(UserError):
    """A model or tokenizer that cannot be had."""


class StoreError(UserError):
    """A result store that cannot be read or written."""


def with_place(error: BaseException, file: str | Path | None = None) -> str:
    """Type, text, and file and line of an error of somebody's code: the last line of it in `file`, where it was there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is not None and Path(frame.filename).resolve() == Path(file).resolve()]
    where = ""
    if isinstance(error, SyntaxError):  # says its file and line itself
        where = f" ({error.filename}:{error.lineno})" if str(error.filename) not in str(error) else ""
    elif frames:
        last = (own or frames)[-1]
        where = f" ({last.filename}:{last.lineno}, in {last.name})"
    return f"{type(error).__name__}: {error}{where}"


def place_in(trace: str, files: Iterable[str]) -> str:
    """` (FILE:LINE)` of the last line of one of the files in a traceback's text; empty where there is none."""
    own = set(files)
    found = [f" ({file}:{line})" for file, line in re.findall(r'File "(.+?)", line (\d+)', trace) if file in own]
    return found[-1] if found else ""
