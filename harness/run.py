"""`python -m harness.run STUDY`."""

from __future__ import annotations

import sys

from harness.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
