"""The command line: `python -m harness VERB`. Verbs import what they need when they run, so that help comes at once."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from harness.errors import UserError, printable

VERBS = {
    "run": "run a study, or go on with it",
    "plan": "show a study's cells, trials and estimated cost",
    "status": "how far a study is, from another terminal",
    "report": "tables, plots and the page again, from the store alone",
    "compare": "two strategies of a study, or two studies, pair by pair",
    "list": "strategies, tasks, or what a study may say",
    "reproduce": "train one row of a result folder again, and say whether the number comes out the same",
    "export": "the student of a row as a Hugging Face directory",
    "merge": "results of one study from several machines into one folder",
    "pack": "a finished store as a few files, which every verb reads as before",
    "unpack": "a packed store with two files a trial again",
    "check": "the conformance tests of a strategy, also of one that you wrote",
    "teacher-outputs": "a study's teachers' outputs as files, which another study takes as a teacher",
    "prefetch": "fetch a study's data and models, for running without a network later",
    "gc": "checkpoints, leftovers and caches that nothing refers to any more",
    "doctor": "versions, accelerators, disk, sizes of cache and results",
}
EXIT_CODES = "exit codes: 0 done; 1 a check failed; 2 wrong input; 3 some trials have no result; 130 interrupted"
USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code (`EXIT_CODES`); argparse itself exits with 2 for arguments that it refuses."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m harness", description="A benchmark of loss-weighting strategies for KD.", epilog=EXIT_CODES
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    chosen = next((word for word in given if word in VERBS), None)
    for verb, help_text in VERBS.items():
        child = verbs.add_parser(verb, help=help_text, description=help_text, epilog=EXIT_CODES)
        if verb == chosen:
            _module(verb).add_arguments(child)
    try:
        parsed = parser.parse_args(given)
        code = int(_module(parsed.verb).run(parsed))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        more = "; what was finished is stored, and the same command goes on from there" if chosen == "run" else ""
        print(f"interrupted{more}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has had enough; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _module(verb: str) -> Any:
    return importlib.import_module(f"harness.commands.{verb.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())
