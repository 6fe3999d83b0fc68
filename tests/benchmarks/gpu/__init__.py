"""What only a GPU can say: stages for at most ten minutes on one, and a simulated CUDA device for machines without.

`python -m tests.benchmarks.gpu` runs the stages. Nothing here imports torch: the simulated device must come first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.outcome import Options, Outcome


def run(options: Options) -> Outcome:
    """All stages, for `python -m tests.benchmarks gpu`; their JSON files go into the folder `gpu` of its results."""
    import torch

    from tests.benchmarks.gpu.__main__ import run_stages
    from tests.benchmarks.gpu.stages import LIMITS
    from tests.benchmarks.outcome import Outcome
    from tests.benchmarks.setting import GLUE_FOLDER

    if not torch.cuda.is_available():
        note = "This machine has no CUDA device: nothing was measured. Run it where there is one."
        return Outcome("what only a GPU can say", [{"GPU": "none"}], [note])
    run_stages(list(LIMITS), options.out / "gpu", GLUE_FOLDER, small=options.small)
    found = [json.loads((options.out / "gpu" / f"{stage}.json").read_text("utf-8")) for stage in LIMITS]
    rows = [{name: one[name] for name in ("stage", "ended", "seconds")} for one in found]
    return Outcome("what only a GPU can say", rows, [line for one in found for line in one["lines"]])
