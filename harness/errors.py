"""Errors that are the user's to mend. The command line prints their text without a traceback and exits with 2."""

from __future__ import annotations

import re

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
