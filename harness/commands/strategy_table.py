"""All strategies of this package as Markdown, for `strategies/README.md`: by family, with paper, needs and cost."""

from __future__ import annotations

import re
from collections import defaultdict

from tabulate import tabulate

from harness.plan.cost import passes_beside_the_step
from harness.study.schema import TrainingSpec
from strategies import Needs, resolve, strategy_names

_YEAR = re.compile(r"\b((?:19|20)\d\d)\b(?!\.\d)|arXiv (\d\d)\d\d\.\d")
"""A year, or that of an arXiv number."""
_DASH = "–"


def strategy_table() -> str:
    """A table for each family. Strategies of plugins and other packages are left out."""
    families: dict[str, list[list[str]]] = defaultdict(list)
    folders: dict[str, str] = {}
    for name in strategy_names():
        strategy = resolve(name).strategy
        package, *inside = strategy.__module__.split(".")
        if package != "strategies":
            continue
        folders[strategy.family] = inside[0]
        needs = strategy.needs(strategy.Settings())
        marks = f"[`{name}`]({'/'.join(inside)}.py)" + (" *" if strategy.reconstruction else "")
        paper, said = (text.replace("|", "\\|") for text in (strategy.paper, resolve(name).fidelity or _DASH))
        families[strategy.family].append(
            [marks, strategy.summary, paper, _year(paper), _needs(needs), _passes(name, needs), said]
        )
    header = ["strategy", "what it does", "paper", "year", "needs", "passes ×", "beside its source"]
    return "\n\n".join(
        f"### {family.capitalize()} (`{folders[family]}/`)\n\n" + tabulate(rows, header, tablefmt="pipe", disable_numparse=True)
        for family, rows in sorted(families.items())
    )


def _year(paper: str) -> str:
    found = _YEAR.search(paper)
    if found is None:
        return _DASH
    return found[1] or f"20{found[2]}"


def _needs(needs: Needs) -> str:
    """Beside labels, the student's logits and one teacher's."""
    fewest, most = needs.teachers
    said = {
        "no teacher": fewest == 0,
        "one teacher": most == 1,
        "several teachers": "kd_each" in needs.terms,
        "a meta set": needs.needs_meta_set,
        "a look-ahead": needs.look_ahead is not None,
        "gradients of each term": needs.term_gramian,
        "pooled features": needs.student_features or needs.teacher_features,
        "replay": needs.replay,
    }
    terms = [f"`{term}`" for term in needs.terms if term not in ("ce", "kd", "kd_each")]
    return ", ".join([*(what for what, asked in said.items() if asked), *terms]) or _DASH


def _passes(name: str, needs: Needs) -> str:
    """Of a plain KD step's two, in full precision, with a meta batch as large as the batch, and with default settings."""
    training = TrainingSpec(precision="fp32")
    forward, backward = passes_beside_the_step(resolve(name).strategy.cost, needs, training)
    return f"{1 + (forward + backward) / 2:g}"
