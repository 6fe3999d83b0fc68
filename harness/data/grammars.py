"""The grammars behind the generated tasks. Each draws one example: its text, and how probable each label is given the text.

Where a text can be read in two ways, its label is drawn by that probability: soft labels of a good teacher then carry
information that the drawn label lacks, as they do for real annotators' labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


class Genre(NamedTuple):
    """What a text is about. Function words, verbs and everything that decides a label are the same in all genres."""

    people: tuple[str, ...]
    plurals: tuple[str, ...]
    """Of `people`, in the same order."""
    places: tuple[str, ...]


TOWN = Genre(
    people=("girl", "nurse", "baker", "driver", "singer"),
    plurals=("girls", "nurses", "bakers", "drivers", "singers"),
    places=("market", "school", "station", "bank", "park", "bridge"),
)
TALE = Genre(
    people=("king", "witch", "knight", "robot", "singer"),
    plurals=("kings", "witches", "knights", "robots", "singers"),
    places=("castle", "forest", "island", "cave", "park", "bridge"),
)
"""The genre of MNLI's mismatched split: mostly words that training has never shown."""

TIMES = ("today", "yesterday", "again", "later", "early", "soon")
NAMES = ("anna", "omar", "lena", "paul", "mira", "hugo", "nora", "ivan")

# cola: third person singular, plural
VERBS = (("sees", "see"), ("likes", "like"), ("helps", "help"))

# sst2
PRAISE = ("good", "great", "lovely", "bright", "warm", "clever", "funny", "moving")
BLAME = ("bad", "awful", "dull", "cold", "stupid", "boring", "weak", "messy")
FILM_PARTS = ("plot", "film", "acting", "music", "ending", "story", "cast", "script")

# mrpc, qqp, qnli: each of two synonyms
ACTIONS = (("bought", "purchased"), ("sold", "traded"), ("fixed", "repaired"))
OBJECTS = (("car", "auto"), ("boat", "ship"), ("coat", "jacket"))
CONTRASTS = ("instead", "rather", "never")
"""Words that give some unequal pairs away, as annotators' habits do in real data."""

# mnli, rte: each of two synonyms
QUALITIES = (("big", "large"), ("happy", "glad"), ("quick", "fast"))
QUANTIFIERS = ("all", "some", "no")


class Drawn(NamedTuple):
    texts: tuple[str, ...]
    """One or two."""
    probabilities: tuple[float, ...]
    """Of each label, in the order of their ids."""


def acceptability(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for cola: are the words in order, and does the verb agree with its subject.

    A noun of the other number between them makes some annotators overlook a wrong verb.
    """
    plural = chance(generator, 0.5)
    fault = one(generator, (None, None, None, "agreement", "order"))
    words = ["the", one(generator, genre.plurals if plural else genre.people)]
    attracted = False
    if chance(generator, 0.4):
        attractor_plural = chance(generator, 0.5)
        attracted = attractor_plural != plural
        words += ["near", "the", one(generator, genre.plurals if attractor_plural else genre.people)]
    words.append(one(generator, VERBS)[int(plural != (fault == "agreement"))])
    words += ["the", one(generator, genre.people)]
    if fault == "order":
        place = int(generator.integers(len(words) - 1))
        words[place], words[place + 1] = words[place + 1], words[place]
    words += _maybe(generator, 0.5, TIMES)
    accepted = 0.97 if fault is None else 0.25 if fault == "agreement" and attracted else 0.03
    return Drawn((" ".join(words),), (1 - accepted, accepted))


def sentiment(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for sst2: `not` turns a word round, and the clause after `but` counts double."""
    clauses, total = [], 0
    count = one(generator, (1, 2, 3))
    for position in range(count):
        good, negated = chance(generator, 0.5), chance(generator, 0.3)
        contrast = position == count - 1 > 0 and chance(generator, 0.5)
        total += (1 if good != negated else -1) * (1 + contrast)
        joint = "but " if contrast else "and " if position else ""
        degree = "not " if negated else ""
        clauses.append(f"{joint}the {one(generator, FILM_PARTS)} is {degree}{one(generator, PRAISE if good else BLAME)}")
    positive = 1 / (1 + np.exp(-3 * total))
    return Drawn((" ".join(clauses),), (1 - positive, positive)) if total else sentiment(generator, genre)


def paraphrase(generator: np.random.Generator, genre: Genre, questions: bool, equal: float) -> Drawn:
    """Draw for mrpc and qqp: is it the same action on the same thing, in other words perhaps.

    A detail that only one of the sentences has makes some annotators call an equal pair different.
    """
    action, thing = _index(generator, ACTIONS), _index(generator, OBJECTS)
    other_action, other_thing = action, thing
    same = chance(generator, equal)
    changed = None if same else one(generator, ("action", "thing", "both"))
    if changed in ("action", "both"):
        other_action = _another(generator, ACTIONS, action)
    if changed in ("thing", "both"):
        other_thing = _another(generator, OBJECTS, thing)
    person = one(generator, genre.people)
    ends = (TIMES, CONTRASTS if not same and chance(generator, 0.5) else TIMES)
    detailed = int(generator.integers(2)) if chance(generator, 0.2) else None
    sentences = []
    for position, (verb, noun) in enumerate(((action, thing), (other_action, other_thing))):
        detail = f" near the {one(generator, genre.places)}" if position == detailed else ""
        act, what, end = one(generator, ACTIONS[verb]), one(generator, OBJECTS[noun]), one(generator, ends[position])
        if questions:
            sentences.append(f"which {person} {act} the {what}{detail} {end} ?")
        else:
            sentences.append(f"the {person} {act} the {what}{detail} {end}")
    accepted = 0.02 if not same else 0.97 if detailed is None else 0.8
    return Drawn((sentences[0], sentences[1]), (1 - accepted, accepted))


def three_way(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for mnli: does the premise imply the hypothesis, leave it open, or rule it out.

    The two quantifiers decide, and whether both sentences speak of the same quality. From `some` to `all` is open by logic,
    and ruled out for those who take `some` for "not all".
    """
    wanted = int(generator.integers(3))
    while True:
        before, after = one(generator, QUANTIFIERS), one(generator, QUANTIFIERS)
        quality = _index(generator, QUALITIES)
        other = quality if chance(generator, 0.7) else _index(generator, QUALITIES)
        if _relation(before, after, quality == other) == wanted:
            break
    people = one(generator, genre.plurals)
    premise = f"{before} {people} are {one(generator, QUALITIES[quality])} {one(generator, TIMES)}"
    hypothesis = f"{after} {people} are {one(generator, QUALITIES[other])}"
    probabilities = [0.02, 0.02, 0.02]
    probabilities[wanted] = 0.96
    if quality == other and (before, after) == ("some", "all"):
        probabilities = [0.02, 0.78, 0.2]
    return Drawn((premise, hypothesis), (probabilities[0], probabilities[1], probabilities[2]))


def _relation(before: str, after: str, same_quality: bool) -> int:
    if not same_quality:
        return 1
    if before == after or (before, after) == ("all", "some"):
        return 0
    return 1 if (before, after) == ("some", "all") else 2


def entailment(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for rte: does the premise imply the hypothesis. As `three_way`, both labels equally often."""
    while True:
        drawn = three_way(generator, genre)
        implied = drawn.probabilities[0]
        if implied > 0.5 or chance(generator, 0.5):
            return Drawn(drawn.texts, (implied, 1 - implied))


ANSWERS = {"where": "at", "when": "during", "who": "with"}
EVENTS = ("lunch", "winter", "monday", "spring", "night", "may")


def answered(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for qnli: does the sentence hold an answer of the kind that the question asks for.

    A word like `today` answers `when` for some annotators and not for most.
    """
    kinds = tuple(ANSWERS)
    asked = "where" if chance(generator, 0.4) else one(generator, kinds)
    right = chance(generator, 0.5)
    silent = not right and chance(generator, 0.5)
    told = None if silent else asked if right else one(generator, tuple(kind for kind in kinds if kind != asked))
    words = {"where": genre.places, "when": EVENTS, "who": NAMES}
    act, thing = one(generator, ACTIONS)[0], one(generator, OBJECTS)[0]
    question = f"{asked} was the {thing} {act} ?"
    end = one(generator, TIMES) if told is None else f"{ANSWERS[told]} {one(generator, words[told])}"
    sentence = f"the {one(generator, genre.people)} {act} the {thing} {end}"
    unanswered = 0.04 if right else 0.75 if silent and asked == "when" else 0.96
    return Drawn((question, sentence), (1 - unanswered, unanswered))


TOPIC_WORDS, OWN_WORD = 4, 0.6
"""Words of a text, and the probability that one is of the text's own topic; else it is of any, the same for all."""


def topic(generator: np.random.Generator, genre: Genre, classes: int) -> Drawn:
    """Draw for a task of a study's own, with as many classes as it names: what a text is about, which its words tell in part.

    A label is as probable as the words make it: where they speak of several topics, all of these are.
    """
    about = int(generator.integers(classes))
    said = [about if chance(generator, OWN_WORD) else int(generator.integers(classes)) for _ in range(TOPIC_WORDS)]
    likelihood = [np.prod([(1 - OWN_WORD) / classes + OWN_WORD * (word == k) for word in said]) for k in range(classes)]
    words = (f"{one(generator, genre.places)}{word}" for word in said)
    return Drawn((" ".join(words),), tuple(float(one) for one in likelihood / np.sum(likelihood)))


def one(generator: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(generator.integers(len(values)))]  # choice() would turn tuples and None into arrays


def _index(generator: np.random.Generator, values: Sequence[object]) -> int:
    return int(generator.integers(len(values)))


def _another(generator: np.random.Generator, values: Sequence[object], index: int) -> int:
    return (index + int(generator.integers(1, len(values)))) % len(values)


def chance(generator: np.random.Generator, probability: float) -> bool:
    return bool(generator.random() < probability)


def _maybe(generator: np.random.Generator, probability: float, values: Sequence[str]) -> list[str]:
    return [one(generator, values)] if chance(generator, probability) else []
