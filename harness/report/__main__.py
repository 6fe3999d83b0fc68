"""`python -m harness.report RESULTS`."""

from __future__ import annotations

import sys

from harness.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
