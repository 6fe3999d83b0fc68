"""Generated tasks with graded rules (`data.generated.rules: graded`): a label is drawn with the probability that its text says.

Every text has a score, the sum of what its words and their order count for, and the score is the log-odds of the label. There
are more words than a few hundred rows can teach: a model that has seen many rows knows the odds of a text, of which a drawn
label tells little. So a teacher has something to tell.
"""

from __future__ import annotations

import math

import numpy as np

from harness.data.grammars import TIMES, Drawn, Genre, chance, one


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SCALE = _words(
    "atrocious horrible dreadful awful terrible pathetic rotten stupid bad dull boring weak messy bland silly dated odd slow "
    "plain loud strange simple common usual mild neat decent clear fresh nice honest clever lively funny good charming moving "
    "lovely elegant great gripping wonderful brilliant excellent superb glorious perfect magnificent"
)
"""From the worst to the best. What a word counts for grows evenly from -1 to 1."""
DEGREES = {"": 1.0, "very": 1.6, "rather": 0.7, "slightly": 0.4, "hardly": -0.3, "not": -0.8}
"""What a word before the adjective multiplies it with."""
PARTS = ("plot", "film", "acting", "music", "ending", "story", "cast", "script")
LINKS = _words("instead never rarely though today still also likewise")
"""From those that go with a different meaning to those that go with the same: annotators' habits, as real data has them."""

NOUNS = _words(
    "palfrey reeve yeoman fuller beadle squire usher herald bailiff weaver mason scribe duke monk miller sailor knight widow "
    "butcher hunter porter merchant captain clerk poet judge baker pilot nurse farmer player doctor driver teacher worker "
    "student brother sister girl friend"
)
"""From the rarest to the most familiar; the plural has an s."""
VERBS = (("sees", "see"), ("likes", "like"), ("helps", "help"), ("finds", "find"), ("follows", "follow"))
"""Third person singular, plural."""

KINDS = {"where": "at", "when": "during", "who": "with"}
DETAILS = {
    "where": _words("leisure work home sea school market station park harbour castle"),
    "when": _words("talks games parties storms lunch dinner spring winter monday sunday"),
    "who": _words("care luck joy pride others guests friends grace omar lena"),
}
"""Of each kind, from those that hardly answer its question to those that do."""
ACTIONS = ("bought", "sold", "fixed", "found", "painted", "lost")
OBJECTS = ("car", "boat", "coat", "house", "clock", "lamp")


def acceptability(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for cola: familiar words, a verb that agrees, words in order. Nouns between subject and verb hide a wrong verb."""
    plural = chance(generator, 0.5)
    subject, familiar = _noun(generator)
    words = ["the", subject + "s" * plural]
    score = familiar
    hidden = 1.0
    if chance(generator, 0.4):
        other = chance(generator, 0.5)
        noun, familiar = _noun(generator)
        words += ["near", "the", noun + "s" * other]
        score += familiar
        hidden = 0.4 if other != plural else 1.0
    wrong = chance(generator, 0.25)
    words.append(one(generator, VERBS)[int(plural != wrong)])
    noun, familiar = _noun(generator)
    words += ["the", noun]
    score = 3 * (score + familiar) + 2.5 - 6 * wrong * hidden
    if chance(generator, 0.2):
        place = int(generator.integers(len(words) - 1))
        words[place], words[place + 1] = words[place + 1], words[place]
        score -= 5
    if chance(generator, 0.5):
        words.append(one(generator, TIMES))
    return _two(" ".join(words), score=score)


def sentiment(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for sst2: how good all is that is told, and what comes after `but` counts twice."""
    text, total = [], 0.0
    count = one(generator, (2, 3))
    for position in range(count):
        words, value = _phrase(generator)
        contrast = position == count - 1 and chance(generator, 0.5)
        joint = "but " if contrast else "and " if position else ""
        text.append(f"{joint}the {one(generator, PARTS)} is {words}")
        total += value * (1 + contrast)
    return _two(" ".join(text), score=5 * total)


def paraphrase(generator: np.random.Generator, genre: Genre, questions: bool, equal: float) -> Drawn:
    """Draw for mrpc and qqp: the nearer two descriptions are, the sooner they are called the same."""
    person, link = one(generator, genre.people), _index(generator, LINKS)
    (first, value), (second, other) = _phrase(generator), _phrase(generator)
    score = equal + 6 * (0.55 - abs(value - other)) + 4 * _even(link, LINKS)
    if questions:
        return _two(f"is the {person} {first} ?", f"do you find the {person} {second} {LINKS[link]} ?", score=score)
    return _two(f"the {person} is {first}", f"they find the {person} {second} {LINKS[link]}", score=score)


def three_way(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for mnli: who says more implies less; about the same is left open; less rules out more."""
    texts, difference = _pair(generator, genre)
    implied = _logistic(6 * difference - 2.4)
    ruled_out = _logistic(-6 * difference - 2.4)
    return Drawn(texts, (implied, 1 - implied - ruled_out, ruled_out))


def entailment(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for rte: who says more implies less."""
    texts, difference = _pair(generator, genre)
    return _two(*texts, score=-5 * difference)


def answered(generator: np.random.Generator, genre: Genre) -> Drawn:
    """Draw for qnli: does the sentence hold a detail of the kind that is asked for, one that really answers."""
    asked = one(generator, tuple(KINDS))
    act, thing = one(generator, ACTIONS), one(generator, OBJECTS)
    details, score = [], -3.2
    for _ in range(2):
        kind = asked if chance(generator, 0.4) else one(generator, tuple(KINDS))
        detail = _index(generator, DETAILS[kind])
        details.append(f"{KINDS[kind]} {DETAILS[kind][detail]}")
        clear = 1 + _even(detail, DETAILS[kind])
        score += (3 if kind == asked else 0.3) * clear
    return _two(
        f"{asked} was the {thing} {act} ?",
        f"the {one(generator, genre.people)} {act} the {thing} {' '.join(details)}",
        score=-score,
    )


def _pair(generator: np.random.Generator, genre: Genre) -> tuple[tuple[str, str], float]:
    """Premise and hypothesis, and how much more the premise says."""
    people = one(generator, genre.plurals)
    (first, value), (second, other) = _phrase(generator), _phrase(generator)
    return (f"the {people} are {first} {one(generator, TIMES)}", f"the {people} are {second}"), value - other


def _phrase(generator: np.random.Generator) -> tuple[str, float]:
    """An adjective, perhaps with a degree, and what it counts for, from -1.6 to 1.6."""
    degree, adjective = "" if chance(generator, 0.4) else one(generator, tuple(DEGREES)), _index(generator, SCALE)
    return f"{degree} {SCALE[adjective]}".strip(), DEGREES[degree] * _even(adjective, SCALE)


def _noun(generator: np.random.Generator) -> tuple[str, float]:
    noun = _index(generator, NOUNS)
    return NOUNS[noun], _even(noun, NOUNS)


def _index(generator: np.random.Generator, words: tuple[str, ...]) -> int:
    return int(generator.integers(len(words)))


def _even(index: int, words: tuple[str, ...]) -> float:
    """From -1 for the first to 1 for the last."""
    return 2 * index / (len(words) - 1) - 1


def _two(*texts: str, score: float) -> Drawn:
    """The score is the log-odds of the second label."""
    probability = _logistic(score)
    return Drawn(texts, (1 - probability, probability))


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-score))
