"""What the protocol asks of a study as a whole; see studies/PROTOCOL.md."""

from __future__ import annotations

from harness.study.comparisons import CONTROLS, REFERENCES
from harness.study.schema import Study
from strategies.registry import resolve


def protocol_warnings(study: Study) -> tuple[str, ...]:
    """What a table of this study will lack; it is marked as incomplete then. The strategies' names are known to be right."""
    names = {entry.name for entry in study.strategies}
    warnings = []
    if missing := [name for name in REFERENCES if name not in names]:
        warnings.append(
            f"the protocol's references are not all run, so the table will be marked incomplete: {', '.join(missing)}"
        )
    found = [resolve(name) for name in sorted(names)]
    # weights that are the same for all samples stay what they are under either control
    learned = [one.name for one in found if one.strategy.learned and one.strategy.sample_wise and not one.wrappers]
    if absent := [f"{kind}({name})" for name in learned for kind in CONTROLS if f"{kind}({name})" not in names]:
        warnings.append(
            "learned sample-wise strategies without their controls, so the table will be marked incomplete: "
            + ", ".join(absent)
        )
    if study.search.repeat == "winner":
        warnings.append(
            f"repeat: winner runs one search and then its best configuration with {study.search.repeats} seeds: cheaper, but "
            "it hides how much a search varies, and the table says so"
        )
    if study.search.early_stopping is not None:
        warnings.append("early stopping is on: allowed within a search, but not for a leaderboard, and the table says so")
    return tuple(warnings)
