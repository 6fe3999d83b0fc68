"""What a study found, in three sentences that come from its leaderboard and nowhere else."""

from __future__ import annotations

import numpy as np

from harness.report.caption import count
from harness.report.cells import estimate, number, p_value, signed
from harness.report.controls import AgainstControl
from harness.report.leaderboard import Leaderboard
from harness.report.references import STUDENT_ALONE
from harness.stats.multiple import holm

NAMED = 4
"""A sentence names so many strategies; of more it says how many there are."""
LEVEL = 0.05


def finding(board: Leaderboard) -> list[str]:
    """Against plain KD; what is learned against its own controls; the order of references, and what could have been seen.

    A sentence whose figures the store cannot give is left out, or says why they are withheld.
    """
    return [sentence for sentence in (_against_baseline(board), _against_controls(board), _order(board)) if sentence]


def how_to_read(board: Leaderboard) -> str:
    """What the figures of `finding` and of `table` are."""
    drawn = "bootstrap over examples, t over repeats" if board.selection.repeats > 1 else "bootstrap over examples"
    compared = int(np.isfinite(board.gain_p_holm).sum())
    return (
        f"Points, mean over {count(len(board.selection.tasks), 'task')}, with 95 % intervals (paired: {drawn}); p corrected "
        f"for {count(compared, 'comparison')} (Holm)."
    )


def _named(board: Leaderboard, label: int, with_p: bool = True) -> str:
    p = f", p {p_value(float(board.gain_p_holm[label]))}" if with_p else ""
    return f"`{board.selection.labels[label]}` ({estimate(board.gain, label, 100, sign=True)}{p})"


def _against_baseline(board: Leaderboard) -> str:
    if board.baseline is None:
        return "Plain KD was not run, so that nothing can be compared with it."
    compared = [i for i in board.order if i != board.baseline and np.isfinite(board.gain_p_holm[i])]
    if not compared:
        return "Cells are missing: all averages are withheld."
    compared.sort(key=lambda i: -board.gain.value[i])
    shown = [i for i in compared if board.gain_p_holm[i] < LEVEL]
    better, worse = [i for i in shown if board.gain.value[i] > 0], [i for i in reversed(shown) if board.gain.value[i] < 0]
    plain = f"plain KD (`{board.baseline_label}`) over {count(len(board.selection.tasks), 'task')}"
    if better:
        said = f"Better than {plain} {'is' if len(better) == 1 else 'are'} {_some(board, better)}"
    else:
        highest = _named(board, compared[0], with_p=False)
        said = f"Of {len(compared)} strategies none is shown to be better than {plain}, the highest being {highest}"
    return said + (
        f"; worse {'is' if len(worse) == 1 else 'are'} {_some(board, worse)}." if worse else "; none is shown to be worse."
    )


def _some(board: Leaderboard, labels: list[int]) -> str:
    names = [_named(board, label) for label in labels[:NAMED]]
    more = len(labels) - NAMED
    return _listed([*names, *([f"{more} more"] if more > 0 else [])])


def _against_controls(board: Leaderboard) -> str:
    pairs = [pair for pair in board.controls if np.isfinite(pair.p)]
    if not pairs:
        return ""
    adjusted = holm(np.array([pair.p for pair in pairs]))
    beyond = [
        f"{_pair(pair)}, p {p_value(float(p))} after correction" for pair, p in zip(pairs, adjusted, strict=True) if p < LEVEL
    ]
    learned = list(dict.fromkeys(pair.label for pair in pairs))
    if beyond:
        others = len(pairs) - len(beyond)
        return f"Against their own controls: {'; '.join(beyond)}; the other {count(others, 'comparison')} tell nothing apart."
    said = "Nothing shows that information about single samples helps: "
    if len(learned) == 1:
        against = _listed([f"{_size(pair)} of `{pair.control}`" for pair in pairs])
        return f"{said}`{learned[0]}` is at {against}, for {_times(board, learned[0])} plain KD's passes."
    largest = max(pairs, key=lambda pair: abs(pair.value))
    return (
        f"{said}none of {len(learned)} learned strategies is told from itself with its weights on the wrong samples, or with "
        f"one weight for the whole batch; farthest apart, {_pair(largest)}."
    )


def _times(board: Leaderboard, label: str) -> str:
    return f"{number(float(board.costs.relative_passes[board.selection.labels.index(label)]), 2)} times"


def _pair(pair: AgainstControl) -> str:
    return f"`{pair.label}` is at {_size(pair)} of `{pair.control}`"


def _size(pair: AgainstControl) -> str:
    return f"{signed(pair.value)} [{signed(pair.low)}, {signed(pair.high)}]"


def _order(board: Leaderboard) -> str:
    said = []
    labels = board.selection.labels
    alone = next((i for i, label in enumerate(labels) if board.selection.strategies[label] == STUDENT_ALONE), None)
    if board.baseline is not None and alone is not None and np.isfinite(board.gain.value[alone]):
        p = p_value(float(board.gain_p[alone]))
        gain = estimate(board.gain, alone, 100, sign=True)
        said.append(f"labels alone (`{labels[alone]}`) are at {gain} of plain KD (p {p}, this comparison alone)")
    if board.baseline is not None and np.isfinite(board.teacher).all() and np.isfinite(board.mean_score.value[board.baseline]):
        above = 100 * float(board.teacher.mean() - board.mean_score.value[board.baseline])
        said.append(f"the best teacher is {number(abs(above))} {'above' if above >= 0 else 'below'} it")
    seen = board.detectable[np.isfinite(board.detectable)]
    if len(seen):
        least, most = number(100 * float(seen.min())), number(100 * float(seen.max()))
        span = least if least == most else f"{least} to {most}"
        said.append(f"single tasks could have shown differences of {span}")
    return f"For scale: {_listed(said)}." if said else ""


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
