"""The parts of an input that are looked at alone, as a multimodal method looks at its modalities."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from harness.data.rows import Rows

R = TypeVar("R", bound=Rows)


def split_parts(rows: R) -> tuple[R, R]:
    """The same rows twice, each with one part of the text.

    Pairs: the first text with an empty second one, and the other way round. Single texts: the first half of the words (the
    larger one), and the rest.
    """
    if len(rows.texts) == 2:
        first, second = rows.texts
        nothing = [""] * len(rows)
        return replace(rows, texts=(first, nothing)), replace(rows, texts=(nothing, second))
    halves = [_halves(text) for text in rows.texts[0]]
    return replace(rows, texts=([a for a, _ in halves],)), replace(rows, texts=([b for _, b in halves],))


def _halves(text: str) -> tuple[str, str]:
    words = text.split()
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])
