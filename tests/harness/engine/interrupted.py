"""A run of stand-ins in a process of its own, to be interrupted: python -m tests.harness.engine.interrupted FOLDER [ADDRESS].

ADDRESS: of a cluster; without, one of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.engine.cluster import connect
from harness.watching.quiet import quiet_libraries
from tests.harness.engine.conftest import StandInRun


def interruptible_run(folder: Path) -> StandInRun:
    """The first cell is fast, the second one takes seconds."""
    return StandInRun(
        folder, ["plain", "slow"], search={"trials": 2}, training={"epochs": 8}, resources={"concurrent_trials": 2}
    )


if __name__ == "__main__":
    root, address = Path(sys.argv[1]), sys.argv[2] if sys.argv[2:] else None
    try:
        with quiet_libraries(root / "logs" / "libraries.log", print), connect(address, root / "logs", cpus=2):
            interruptible_run(root)()
    except KeyboardInterrupt:
        sys.exit(130)
