"""Where strategies and wrappers are registered, and how a name in a study becomes one of them.

Three ways in: the decorators below for the built-ins, the entry-point group `harness.strategies` for installed packages, and
`load_plugin` for a single file that a study names. A name taken twice is an error that names both origins.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from strategies.base import Needs, Normalisation, Settings, Setup, Strategy
from strategies.code import CONTRACT, code_digest, remember_source

ENTRY_POINT_GROUP = "harness.strategies"
_PARTS = "strategies.parts"
"""What several strategies share; no strategy itself."""
_DECLARED = ("family", "summary", "paper", "sample_wise", "normalisation")
FIDELITY = ("As published", "Differs: ", "No paper: ")
"""Docstrings and not attributes: words do not change the digest of a strategy's code."""
CLAIMS = "Claims: "
_strategies: dict[str, type[Strategy[Any]]] = {}
_wrappers: dict[str, type[Wrapper]] = {}


class UnknownStrategyError(ValueError):
    """No strategy or wrapper of that name, with a list of what there is; or an installed package's that cannot be loaded."""


class Wrapper(Strategy[Settings]):
    """A strategy made of another one: `name(inner)` in a study. Settings and needs are the inner strategy's."""

    sample_wise_after: ClassVar[bool | None] = None
    """What wrapping makes of `sample_wise`; None: it stays."""
    normalisation_after: ClassVar[Normalisation | None] = None
    """What wrapping makes of `normalisation`; None: it stays. A strategy that promises nothing (FREE) still does not."""

    def __init__(self, settings: Settings, setup: Setup, inner: Strategy[Any]) -> None:
        super().__init__(settings, setup)
        self.inner = inner

    @classmethod
    def needs_after(cls, needs: Needs) -> Needs:
        """What wrapping makes of the inner strategy's needs."""
        return needs

    @classmethod
    def refuses_around(cls, needs: Needs) -> str | None:
        """Why there is no sense in wrapping a strategy with these needs; None where there is."""
        return None

    def weights(self, context: Any) -> Any:
        return self.inner.weights(context)

    def shape_terms(self, context: Any) -> Any:
        return self.inner.shape_terms(context)

    def after_step(self, context: Any) -> None:
        self.inner.after_step(context)

    def end_epoch(self, epoch: int, mean_terms: Mapping[str, float]) -> None:
        self.inner.end_epoch(epoch, mean_terms)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)


@dataclass(frozen=True)
class Claim:
    """A weight's direction, as the source has it."""

    term: str
    sign: int
    """1: the term's weight is larger where the measure is; -1: smaller."""
    measure: str
    """Of a sample, e.g. `teacher confidence`: `harness.conformance.behaviour_card`."""

    def __str__(self) -> str:
        return f"{self.term} {'rises' if self.sign > 0 else 'falls'} with {self.measure}"


@dataclass(frozen=True)
class Registered:
    """A resolved name: a strategy, inside any number of wrappers (outermost first)."""

    name: str
    strategy: type[Strategy[Any]]
    wrappers: tuple[type[Wrapper], ...] = ()

    def settings(self, values: Mapping[str, Any] | None = None) -> Settings:
        """Validated hyper-parameters. Raises pydantic.ValidationError."""
        return self.strategy.Settings.model_validate(dict(values or {}))

    def needs(self, settings: Settings) -> Needs:
        found = self.strategy.needs(settings)
        for wrapper in reversed(self.wrappers):
            found = wrapper.needs_after(found)
        return found

    def refuses(self, settings: Settings, classes: int) -> str | None:
        """Why the strategy cannot, or should not, run on a task of so many classes; None where it can."""
        around = (wrapper.refuses_around(self.strategy.needs(settings)) for wrapper in self.wrappers)
        return self.strategy.refuses(settings, classes) or next((reason for reason in around if reason), None)

    def refuses_teachers(self, settings: Settings, hidden_sizes: Mapping[str, int | None]) -> str | None:
        """Why the strategy cannot run among these teachers (name -> size of the pooled vector, or None); None where it can."""
        return self.strategy.refuses_teachers(settings, hidden_sizes)

    def warm_up(self, settings: Settings, epochs: int) -> float:
        """Epochs of a training whose scores say little of its end."""
        return self.strategy.warm_up(settings, epochs)

    @property
    def sample_wise(self) -> bool:
        """Whether two samples of one batch get different weights, wrappers considered."""
        found = self.strategy.sample_wise
        for wrapper in reversed(self.wrappers):
            found = found if wrapper.sample_wise_after is None else wrapper.sample_wise_after
        return found

    def normalisation(self, settings: Settings) -> Normalisation:
        """What the weights promise with these settings, wrappers considered."""
        found = self.strategy.normalisation_with(settings)
        for wrapper in reversed(self.wrappers):
            if wrapper.normalisation_after is not None and found is not Normalisation.FREE:
                found = wrapper.normalisation_after
        return found

    def create(self, settings: Settings, setup: Setup) -> Strategy[Any]:
        """Raises ValueError for settings that it refuses for so many classes."""
        if reason := self.refuses(settings, setup.classes):
            raise ValueError(f"strategy {self.name!r}: {reason}")
        made = self.strategy(settings, setup)
        for wrapper in reversed(self.wrappers):
            made = wrapper(settings, setup, made)
        return made

    @property
    def fidelity(self) -> str | None:
        """How it compares with its source: the paragraph of its class's docstring that begins with one of FIDELITY."""
        return _paragraph(self.strategy, FIDELITY)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What is said of its weights: "Claims: TERM rises with MEASURE; TERM falls with MEASURE." in the class's docstring.

        Raises ValueError for a paragraph that begins so and is not of this form. A wrapped strategy claims nothing.
        """
        said = None if self.wrappers else _paragraph(self.strategy, (CLAIMS,))
        if said is None:
            return ()
        found = []
        for part in said.removeprefix(CLAIMS).rstrip(".").split(";"):
            match = re.fullmatch(r"\s*(\w+) (rises|falls) with ([\w ]+)", part)
            if match is None:
                raise ValueError(
                    f"the docstring's claim {part.strip()!r} is not of the form: TERM rises (or falls) with MEASURE"
                )
            found.append(Claim(match[1], 1 if match[2] == "rises" else -1, match[3].strip()))
        return tuple(found)

    @property
    def origin(self) -> str:
        """File and line of the strategy's class."""
        return _origin(self.strategy)

    @property
    def code_digest(self) -> str:
        """Of the strategy and its wrappers (`strategies.code`)."""
        return code_digest(c.__module__ for c in (self.strategy, *self.wrappers))


C = TypeVar("C", bound=type[Strategy[Any]])


def register(cls: C) -> C:
    """Class decorator: make a strategy available under its `name`. Raises ValueError where it does not say what it is."""
    missing = [attribute for attribute in _DECLARED if not hasattr(cls, attribute)]
    if missing:
        raise ValueError(
            f"{_origin(cls)}: a strategy needs class attributes {', '.join(_DECLARED)}; missing: {', '.join(missing)}"
        )
    return _add(_strategies, "strategy", cls)


def register_wrapper(cls: C) -> C:
    """Class decorator: make a wrapper available as `name(...)`."""
    return _add(_wrappers, "wrapper", cls)


def resolve(name: str) -> Registered:
    """The strategy that a study calls `name`, e.g. `wsl` or `shuffled(rw_kd)`. Raises UnknownStrategyError."""
    wrappers = []
    inner = name.strip()
    while match := re.fullmatch(r"(\w+)\((.*)\)", inner):
        wrappers.append(_find(_wrappers, "wrapper", match[1]))
        inner = match[2].strip()
    return Registered(name, _find(_strategies, "strategy", inner), tuple(wrappers))


def strategy_names() -> list[str]:
    load_builtin_strategies()
    return sorted(_strategies)


def wrapper_names() -> list[str]:
    load_builtin_strategies()
    return sorted(_wrappers)


@cache
def _modules() -> dict[str, str]:
    """Name -> module, e.g. wsl -> strategies.heuristics.wsl, of this package's strategies and wrappers.

    A strategy's file is found by its name, in whichever folder it lies. Raises ValueError for a name that two files have.
    """
    package = importlib.import_module("strategies")
    found: dict[str, str] = {}
    for module in pkgutil.walk_packages(package.__path__, "strategies."):
        if module.ispkg or module.name in CONTRACT or module.name.startswith(_PARTS):
            continue
        name = module.name.rpartition(".")[2]
        if name in found:
            raise ValueError(f"two files have the name of one strategy: {found[name]} and {module.name}")
        found[name] = module.name
    return found


@cache
def load_builtin_strategies() -> None:
    """Import every module of this package, then what installed packages declare. Raises UnknownStrategyError."""
    for module in sorted(_modules().values()):
        importlib.import_module(module)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = point.load()
            if isinstance(loaded, type) and issubclass(loaded, Strategy) and getattr(loaded, "name", None) not in _strategies:
                register(loaded)
        except Exception as error:  # somebody else's code may raise anything
            package = point.dist.name if point.dist else "?"
            raise UnknownStrategyError(
                f"the strategy {point.value!r} of the installed package {package!r} cannot be loaded: "
                f"{type(error).__name__}: {error}. Mend the package, or uninstall it"
            ) from error


def load_plugin(path: str | Path) -> None:
    """Import a Python file that registers strategies. A file whose strategies are registered already is not imported again.

    Raises FileNotFoundError for a missing file, and whatever the file itself raises.
    """
    load_builtin_strategies()
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"plugin {str(path)!r}: no such file (looked for {file})")
    module_name = "harness_plugin_" + hashlib.sha256(str(file).encode()).hexdigest()[:12]
    if module_name in sys.modules or str(file) in {
        inspect.getsourcefile(c) for c in (*_strategies.values(), *_wrappers.values())
    }:
        return
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"plugin {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def _add(table: dict[str, Any], kind: str, cls: C) -> C:
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(f"{_origin(cls)}: a {kind} needs a class attribute `name` of letters, digits and _, got {name!r}")
    known = table.get(name)
    if known is not None and _origin(known) != _origin(cls):
        raise ValueError(f"the {kind} name {name!r} is taken twice: by {_origin(known)} and by {_origin(cls)}")
    table[name] = cls
    remember_source(cls.__module__)
    return cls


def _find(table: dict[str, Any], kind: str, name: str) -> Any:
    """By the module of that name, where there is one: importing all of them takes a study's plan longer than the rest of it."""
    if name not in table and name in _modules():
        importlib.import_module(_modules()[name])
    if name not in table:
        load_builtin_strategies()
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownStrategyError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(sorted(table))}")


def _paragraph(cls: type, starts: tuple[str, ...]) -> str | None:
    """The first paragraph of the class's own docstring that begins so, as one line."""
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        if paragraph.startswith(starts):
            return " ".join(paragraph.split())
    return None


def _origin(cls: type) -> str:
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"
