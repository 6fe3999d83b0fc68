"""What a study found, in sentences that come from its leaderboard and nowhere else, and in no words but the verdicts'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.report.caption import count, detectable_gain
from harness.report.cells import difference, estimate, number, p_value
from harness.report.leaderboard import Leaderboard
from harness.report.references import STUDENT_ALONE, find_strategy
from harness.report.verdicts import BETTER, EQUIVALENT, UNDECIDED, WORSE, Comparison

NAMED = 4
"""A sentence names so many strategies; of more it says how many there are."""


def finding(board: Leaderboard) -> list[str]:
    """Against plain KD; what is learned against its own controls; by share of flipped labels; the order of references, and what
    could have been seen.

    A sentence whose figures the store cannot give is left out, or says why they are withheld.
    """
    said = answer(board), _against_controls(board), on_equal_rows(board), _by_noise(board), _scale(board)
    return [sentence for sentence in said if sentence]


def how_to_read(board: Leaderboard) -> str:
    """What the figures of `finding` and of `table` are."""
    drawn = "bootstrap over examples, t over repeats" if board.selection.repeats > 1 else "bootstrap over examples"
    return (
        f"Points, mean over {_tasks(board)}, with 95 % intervals (paired: {drawn}); p and verdicts corrected over the declared "
        f"family of {count(len(board.primary), 'comparison')} (max-T)."
    )


def answer(board: Leaderboard) -> str:
    """The primary family in one sentence."""
    if board.baseline is None:
        return "Plain KD was not run, so that nothing can be compared with it."
    found = [one for one in board.primary if one.verdict]
    if not board.primary:
        return "No strategy is declared to be compared with plain KD."
    if not found:
        return "Cells are missing: all averages are withheld."
    plain = f"plain KD (`{board.baseline_label}`) over {_tasks(board)}"
    if len(found) == 1:
        (one,) = found
        word = one.words if one.verdict == UNDECIDED else one.word
        return f"{_named(board, one, with_p=one.verdict in (BETTER, WORSE))} compared with {plain}: {word}."
    groups = {verdict: [one for one in found if one.verdict == verdict] for verdict in (BETTER, WORSE, EQUIVALENT, UNDECIDED)}
    for verdict, members in groups.items():
        members.sort(key=lambda one: -abs(one.value) if verdict in (BETTER, WORSE) else -one.value)
    said = [f"none is {BETTER}" if not groups[BETTER] else _group(board, groups[BETTER], BETTER)]
    said += [f"none is {WORSE}" if not groups[WORSE] else _group(board, groups[WORSE], WORSE)]
    if groups[EQUIVALENT]:
        said.append(_group(board, groups[EQUIVALENT], groups[EQUIVALENT][0].word))
    if groups[UNDECIDED]:
        members = groups[UNDECIDED]
        are = f"{len(members)} {'is' if len(members) == 1 else 'are'} {UNDECIDED}"
        said.append(f"{are}, the highest {_named(board, members[0])}")
    return f"Of {len(found)} strategies compared with {plain}, {'; '.join(said)}."


def _group(board: Leaderboard, members: Sequence[Comparison], word: str) -> str:
    names = [_named(board, one, with_p=one.verdict in (BETTER, WORSE)) for one in members[:NAMED]]
    if len(members) > NAMED:
        names.append(f"{len(members) - NAMED} more")
    return f"{len(members)} {'is' if len(members) == 1 else 'are'} {word}: {_listed(names)}"


def _named(board: Leaderboard, one: Comparison, with_p: bool = False) -> str:
    more = (f", p {p_value(one.p)}" if with_p else "") + (f", rests on {one.rests_on}" if one.rests_on else "")
    return f"`{board.selection.labels[one.first]}` ({difference(one.value, one.low, one.high)}{more})"


def _tasks(board: Leaderboard) -> str:
    inside, tasks = int(board.admission.in_mean.sum()), len(board.selection.tasks)
    return count(tasks, "task") if inside == tasks else f"{inside} of {tasks} tasks"


def _against_controls(board: Leaderboard) -> str:
    found = [one for one in board.controls if one.verdict]
    if not found:
        return ""
    labels = board.selection.labels
    said = []
    for verdict in (BETTER, WORSE, EQUIVALENT, UNDECIDED):
        members = [one for one in found if one.verdict == verdict]
        if not members:
            said += [f"none is {BETTER}"] if verdict == BETTER else []
            continue
        named = []
        for one in members[: NAMED if verdict != UNDECIDED or len(found) == 1 else 0]:
            against = _listed([f"{difference(c.value, c.low, c.high)} over `{labels[c.second]}`" for c in one.comparisons])
            named.append(f"`{one.label}` ({against})")
        word = members[0].comparisons[0].word if verdict == EQUIVALENT else verdict
        said.append(f"{len(members)} {'is' if len(members) == 1 else 'are'} {word}" + (f": {_listed(named)}" if named else ""))
    return (
        "Does it help to tell samples apart? Against their own controls, each with its weights on the wrong samples and with "
        f"one weight for the batch, of {count(len(found), 'strategy', 'strategies')} {'; '.join(said)}."
    )


def on_equal_rows(board: Leaderboard) -> str:
    """Strategies with a meta set against plain KD without its rows, in a sentence; empty where none is declared."""
    found = [one for one in board.equal_rows if one.verdict]
    if not found:
        return ""
    named = []
    for one in found:
        (against,) = one.comparisons
        named.append(f"`{one.label}` is {one.words} ({difference(against.value, against.low, against.high)})")
    return (
        f"Is the use of a meta set worth it? Against plain KD on as many labels (`{found[0].controls[0]}`): {'; '.join(named)}."
    )


def _by_noise(board: Leaderboard) -> str:
    """Of a primary family of a few, and of labels alone."""
    shown = [one for one in (*board.primary, _alone(board)) if one is not None]
    if not board.noise_gains or not 0 < len(board.primary) <= NAMED:
        return ""
    labels = board.selection.labels
    said = [
        f"with {level.rstrip('%')} % "
        + _listed([f"`{labels[one.first]}` is at {estimate(gains, one.first, 100, sign=True)}" for one in shown])
        for level, gains in board.noise_gains.items()
    ]
    return f"By share of flipped training labels, against plain KD, explored: {'; '.join(said)}."


def _alone(board: Leaderboard) -> Comparison | None:
    alone = find_strategy(board.selection, STUDENT_ALONE)
    return None if alone is None else board.comparisons[alone]


def _scale(board: Leaderboard) -> str:
    said = []
    labels = board.selection.labels
    one = _alone(board)
    if one is not None and np.isfinite(one.value):
        gain = estimate(board.gain, one.first, 100, sign=True)
        said.append(f"labels alone (`{labels[one.first]}`) are at {gain} against plain KD")
    inside = board.admission.in_mean
    if (
        board.baseline is not None
        and np.isfinite(board.teacher[inside]).all()
        and np.isfinite(board.gain.value[board.baseline])
    ):
        above = 100 * float(board.teacher[inside].mean() - board.mean_score.value[board.baseline])
        said.append(f"the best teacher is {number(abs(above))} {'above' if above >= 0 else 'below'} it")
    if board.primary and detectable_gain(board) != "none / none":
        by_itself, corrected = detectable_gain(board).split(" / ")
        sizes = by_itself if by_itself == corrected else f"{by_itself} by itself, {corrected} after correction"
        said.append(f"four of five such studies would find a gain of {sizes}")
    return f"For scale: {_listed(said)}." if said else ""


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
