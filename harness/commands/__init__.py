"""The verbs of `python -m harness`, one a file."""
