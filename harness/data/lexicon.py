"""The words of the generated tasks. Small enough that a tiny model sees each of them often."""

from __future__ import annotations

from typing import NamedTuple


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
