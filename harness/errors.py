"""Errors that are the user's to mend. The command line prints their text without a traceback and exits with 2."""


class UserError(Exception):
    """What was given, what is allowed, the nearest match, and where it came from, in a paragraph."""


class StudyError(UserError):
    """A study file, or an override, that cannot be run."""


class DataError(UserError):
    """Rows that are missing or cannot be what the task says."""


class ModelError(UserError):
    """A model or tokenizer that cannot be had."""


class StoreError(UserError):
    """A result store that cannot be read or written."""
