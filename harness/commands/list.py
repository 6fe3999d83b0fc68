"""`python -m harness list strategies|terms|tasks|study`."""

from __future__ import annotations

import argparse
import json
import textwrap
import typing
from typing import Any

from pydantic import BaseModel

from harness.errors import UserError
from harness.loss_terms.registry import PLAIN, registered_terms
from harness.study.section import Section
from harness.study.tasks import GLUE, official_rows
from strategies import resolve, strategy_names, wrapper_names
from strategies.registry import UnknownStrategyError
from strategies.space import Choice, FloatRange, IntRange, Range

_NAMES: dict[Any, str] = {
    str: "text",
    bool: "true, false",
    float: "number",
    int: "whole number",
    type(None): "null",
    Any: "anything",
    FloatRange: "{type: float, low: number, high: number, log: true or false}",
    IntRange: "{type: int, low, high, log}",
    Choice: "{type: choice, values: list}",
}
"""What `list study` calls the types of a schema."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["strategies", "terms", "tasks", "study"])
    parser.add_argument("name", nargs="?", help="one strategy, with all its settings")
    parser.add_argument("--markdown", action="store_true", help="all strategies with paper, needs and cost, for a README")


def run(arguments: argparse.Namespace) -> int:
    """Print what there is."""
    try:
        _print(arguments)
    except UnknownStrategyError as error:
        raise UserError(str(error)) from error
    return 0


def _print(arguments: argparse.Namespace) -> None:
    if arguments.markdown:
        if arguments.what != "strategies" or arguments.name:
            raise UserError("--markdown goes with `list strategies` alone")
        from harness.commands.strategy_table import strategy_table

        print(strategy_table())
    elif arguments.name and arguments.what != "strategies":
        raise UserError(f"a name goes with `list strategies` alone, got {arguments.name!r} after `list {arguments.what}`")
    elif arguments.what == "tasks":
        print(_tasks())
    elif arguments.what == "terms":
        print(_terms())
    elif arguments.what == "study":
        from harness.study.schema import Study

        print("\n".join(_fields(Study, 0)))
    elif arguments.name:
        print(_strategy(arguments.name))
    else:
        print(_strategies())


def _strategies() -> str:
    from tabulate import tabulate

    rows = []
    for name in strategy_names():
        cls = resolve(name).strategy
        settings = ", ".join(cls.Settings.model_fields)
        rows.append(
            [
                cls.family,
                name,
                cls.summary,
                "yes" if cls.sample_wise else "no",
                "yes" if cls.learned else "no",
                cls.cost.value,
                settings or "-",
            ]
        )
    rows.sort()
    headers = ["family", "strategy", "what it does", "sample-wise", "learned", "extra cost", "settings"]
    widths = [14, 22, 44, 6, 7, 10, 36]
    table = tabulate(rows, headers, maxcolwidths=widths, maxheadercolwidths=widths)
    return f"{table}\n\nwrappers, for any of them: {', '.join(f'{name}(...)' for name in wrapper_names())}\n" + (
        "one strategy in full: python -m harness list strategies NAME"
    )


def _strategy(name: str) -> str:
    registered = resolve(name)
    cls = registered.strategy
    lines = [f"{name} ({cls.family}): {cls.summary}", f"paper: {cls.paper}"]
    if registered.fidelity:
        lines.append(f"beside its source: {registered.fidelity}")
    if cls.reconstruction:
        lines.append(f"reconstruction: {cls.reconstruction}")
    lines += [
        f"sample-wise: {'yes' if cls.sample_wise else 'no'}; learned: {'yes' if cls.learned else 'no'}; "
        f"extra cost: {cls.cost.value}; weights: {registered.normalisation(registered.settings()).value}",
        f"defined in {registered.origin}",
        "",
        "settings" if cls.Settings.model_fields else "no settings",
    ]
    for field_name, field in cls.Settings.model_fields.items():
        space = cls.Settings.search_space.get(field_name)
        searched = f"; searched {_range(space)}" if space else ""
        lines.append(f"  {field_name} = {field.default!r}{searched}")
        lines += textwrap.wrap(field.description or "", 110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="    ") if len(line) > 120 else line for line in lines)


def _range(space: Range) -> str:
    if isinstance(space, Choice):
        return "over " + ", ".join(map(str, space.values))
    return f"from {space.low:g} to {space.high:g}" + (", logarithmic" if space.log else "")


def _tasks() -> str:
    from tabulate import tabulate

    rows = [
        [task.name, ", ".join(task.text), ", ".join(task.labels), ", ".join(task.metrics), official_rows(task.name)["train"]]
        for task in GLUE.values()
    ]
    table = tabulate(rows, ["task", "text", "labels", "metrics (first: headline)", "train rows"], intfmt=",")
    return f"{table}\n\nA task of your own is a mapping in a study: see `tasks` in `python -m harness list study`."


def _terms() -> str:
    from tabulate import tabulate

    found = registered_terms()
    rows = [[name, term.summary, ", ".join(term.Options.model_fields) or "-"] for name, term in sorted(found.items())]
    table = tabulate(rows, ["loss term", "what it is", "options"], maxcolwidths=[24, 60, 42])
    return (
        f"{table}\n\nof logits and labels alone: {', '.join(PLAIN)}\n"
        "beside ce and kd in any strategy that has the setting extra_terms"
    )


def _fields(model: type[BaseModel], depth: int) -> list[str]:
    lines = []
    indent = "  " * depth
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f" = {_default(field.get_default(call_default_factory=True))}"
        lines.append(f"{indent}{name}: {_type(field.annotation)}{default}")
        lines += textwrap.wrap(
            field.description or "", 110, initial_indent=f"{indent}    # ", subsequent_indent=f"{indent}    # "
        )
        for inner in _models(field.annotation):
            lines += _fields(inner, depth + 2)
    return lines


def _default(value: Any) -> str:
    return "{...}" if isinstance(value, BaseModel) else json.dumps(value)


def _type(annotation: Any) -> str:
    """As a user would write it: `text or null`, `list of task names`."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(map(str, arguments))
    if origin is list:
        return f"list of ({_type(arguments[0])})"
    if origin is dict:
        return f"mapping of name -> ({_type(arguments[1])})"
    if arguments:
        return " or ".join(_type(one) for one in arguments)
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models(part)]
