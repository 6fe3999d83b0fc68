"""The grammars behind the generated tasks. Each draws one example: text, and the label that its rule gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NOUNS = {"home": ["cat", "girl", "king", "nurse", "baker"], "away": ["cat", "robot", "king", "witch", "poet"]}
PLURALS = ["cats", "girls", "kings", "nurses", "bakers"]
PRAISE = ["good", "great", "lovely", "bright", "warm", "clever", "funny", "moving"]
BLAME = ["bad", "awful", "dull", "cold", "stupid", "boring", "weak", "messy"]
THINGS = ["plot", "film", "acting", "music", "ending", "story", "cast", "script"]
VERBS = [("sees", "see"), ("likes", "like"), ("helps", "help")]
# each of two synonyms
ACTIONS = [("bought", "purchased"), ("sold", "traded"), ("fixed", "repaired")]
OBJECTS = [("car", "auto"), ("boat", "ship"), ("coat", "jacket")]
QUALITIES = [("big", "large"), ("happy", "glad"), ("quick", "fast")]
QUANTIFIERS = ["all", "some", "no"]
ANSWERS = {"where": "at", "when": "during", "who": "with"}
NAMES = ["lunch", "school", "winter", "anna", "market", "omar"]
CONTRASTS = ["instead", "rather", "never"]
"""Words that give some different pairs away, as annotators' habits do in real data."""
FILLERS = ["today", "again", "indeed", "perhaps", "still", "now"]


class Pair(NamedTuple):
    first: str
    second: str
    """Empty for tasks of one sentence."""
    label: int


def acceptability(generator: np.random.Generator, genre: str) -> Pair:
    """1 where the words are in order and the verb agrees with its subject, though a noun of the other number stands between."""
    plural = bool(generator.integers(2))
    words = ["the", _one(generator, PLURALS if plural else NOUNS[genre])]
    if generator.random() < 0.4:
        words += ["near", "the", _one(generator, NOUNS[genre] if generator.random() < 0.5 else PLURALS)]
    acceptable = bool(generator.random() < 0.6)
    broken_order = not acceptable and generator.random() < 0.4
    verb = _one(generator, VERBS)[int(plural == (acceptable or broken_order))]
    words += [verb, "the", _one(generator, NOUNS[genre])]
    if broken_order:
        place = int(generator.integers(len(words) - 1))
        words[place], words[place + 1] = words[place + 1], words[place]
    if generator.random() < 0.3:
        words.append(_one(generator, FILLERS))
    return Pair(" ".join(words), "", int(acceptable))


def sentiment(generator: np.random.Generator, genre: str) -> Pair:
    """1 where praise outweighs blame; `not` turns a word round, and what follows `but` counts double."""
    while True:
        clauses, total = [], 0
        count = int(generator.integers(1, 4))
        for position in range(count):
            good, negated = bool(generator.integers(2)), generator.random() < 0.3
            word = _one(generator, PRAISE if good else BLAME)
            last = position == count - 1 and count > 1
            contrast = last and generator.random() < 0.5
            total += (1 if good != negated else -1) * (2 if contrast else 1)
            joint = "but " if contrast else "and " if position else ""
            clauses.append(f"{joint}the {_one(generator, THINGS)} is {'not ' if negated else ''}{word}")
        if total:
            return Pair(" ".join(clauses), "", int(total > 0))


def duplicate(generator: np.random.Generator, genre: str, questions: bool) -> Pair:
    """1 where both sentences tell of the same action on the same thing, in other words perhaps."""
    action, thing = int(generator.integers(len(ACTIONS))), int(generator.integers(len(OBJECTS)))
    same = bool(generator.random() < 0.55)
    other_action, other_thing = action, thing
    if not same:
        if generator.random() < 0.5:
            other_action = (action + int(generator.integers(1, len(ACTIONS)))) % len(ACTIONS)
        else:
            other_thing = (thing + int(generator.integers(1, len(OBJECTS)))) % len(OBJECTS)
    told_apart = not same and generator.random() < 0.4
    sentences = []
    for a, t, last in ((action, thing, FILLERS), (other_action, other_thing, CONTRASTS if told_apart else FILLERS)):
        verb, noun, end = _one(generator, ACTIONS[a]), _one(generator, OBJECTS[t]), _one(generator, last)
        who = "who" if questions else f"the {_one(generator, NOUNS[genre])}"
        sentences.append(f"{who} {verb} the {noun} {end}{' ?' if questions else ''}")
    return Pair(sentences[0], sentences[1], int(same))


def three_way(generator: np.random.Generator, genre: str) -> Pair:
    """0 where the premise implies the hypothesis, 1 where it leaves it open, 2 where it rules it out.

    Decided by the two quantifiers, and by whether both sentences speak of the same quality.
    """
    wanted = int(generator.integers(3))
    while True:
        before, after = (QUANTIFIERS[int(generator.integers(3))] for _ in range(2))
        quality, other = (int(generator.integers(len(QUALITIES))) for _ in range(2))
        if generator.random() < 0.7:
            other = quality
        if _relation(before, after, quality == other) == wanted:
            break
    noun = _one(generator, NOUNS[genre])
    premise = f"{before} {noun} is {_one(generator, QUALITIES[quality])} {_one(generator, FILLERS)}"
    return Pair(premise, f"{after} {noun} is {_one(generator, QUALITIES[other])}", wanted)


def _relation(before: str, after: str, same_quality: bool) -> int:
    if not same_quality:
        return 1
    if before == after or (before, after) == ("all", "some"):
        return 0
    return 1 if (before, after) == ("some", "all") else 2


def entailment(generator: np.random.Generator, genre: str) -> Pair:
    """0 where the premise implies the hypothesis, 1 where it does not."""
    while True:
        pair = three_way(generator, genre)
        if pair.label == 0 or generator.random() < 0.5:
            return pair._replace(label=int(pair.label != 0))


def question_answer(generator: np.random.Generator, genre: str) -> Pair:
    """0 where the sentence holds an answer of the kind that the question asks for."""
    kinds = list(ANSWERS)
    asked = kinds[0] if generator.random() < 0.5 else _one(generator, kinds)
    answered = bool(generator.integers(2))
    told = asked if answered else _one(generator, [kind for kind in kinds if kind != asked])
    noun, action, thing = _one(generator, NOUNS[genre]), _one(generator, ACTIONS)[0], _one(generator, OBJECTS)[0]
    silent = not answered and generator.random() < 0.5
    answer = _one(generator, FILLERS) if silent else f"{ANSWERS[told]} {_one(generator, NAMES)}"
    return Pair(f"{asked} was the {thing} {action} ?", f"the {noun} {action} the {thing} {answer}", int(not answered))


def _one(generator: np.random.Generator, values: Sequence[object]) -> str:
    # numpy's own choice() would turn tuples into arrays
    return values[int(generator.integers(len(values)))]  # type: ignore[return-value]
