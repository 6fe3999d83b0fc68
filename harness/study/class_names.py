"""Which of somebody else's classes is which of a task's: by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.study.schema_errors import nearest


def match_classes(classes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Position among `others` of each of the task's `classes`, which must be the same names in any order.

    Names that differ in case, spaces, `-` and `_` alone are one name, unless that makes two of them one (`1` and `-1`).
    Raises ValueError, whose text has `others` as its subject.
    """
    for same in (str, _plain):
        own, given = [same(name) for name in classes], [same(name) for name in others]
        if len(set(own)) == len(own) and sorted(own) == sorted(given):
            return [given.index(name) for name in own]
    known = {_plain(name) for name in classes}
    unknown = [name for name in others if _plain(name) not in known]
    found = {_plain(name) for name in others}
    lacking = [name for name in classes if _plain(name) not in found]
    faults = []
    if unknown:
        faults.append(f"{unknown[0]!r} is none of the task's classes.{nearest(unknown[0], lacking or classes)}")
    elif lacking:
        faults.append(f"the task's class {lacking[0]!r} is missing.")
    else:
        faults.append("a class is named twice.")
    raise ValueError(f"{faults[0]} Classes of the task: {', '.join(classes)}; found: {', '.join(map(str, others))}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", str(name)).casefold()
