"""Conformance tests of any strategy: built in, wrapped, in a plugin file, or from an installed package."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

from harness.conformance.behaviour import behaviour_faults
from harness.conformance.declaration import declaration_faults
from harness.conformance.findings import Finding, Report, StrategyReport
from harness.conformance.tiny_training import CLASSES
from harness.errors import UserError
from strategies.registry import Registered, UnknownStrategyError, load_plugin, resolve, strategy_names, wrapper_names

__all__ = ["CHECKS", "Finding", "Report", "StrategyReport", "check"]

CHECKS = {
    "declaration": "name, family, summary, paper, sample_wise, normalisation and cost are declared",
    "settings": "every setting has a valid default and a description",
    "search space": "every searched value is a value that the setting takes",
    "needs": "the declared needs fit together",
    "runs": "a small training with default settings runs to its end",
    "finite": "every weight is finite",
    "detached": "no weight carries a graph",
    "context untouched": "the context's tensors are not changed",
    "randomness": "torch's global generator is left alone",
    "order of the batch": "permuting the batch permutes the weights",
    "order of the teachers": "permuting the teachers permutes the weights, where nothing is drawn or learned",
    "determinism": "the same seeds give the same weights",
    "state": "going on from a saved state gives the same weights as never stopping",
    "normalisation": "the weights keep the declared normalisation",
    "sample-wise": "samples of a batch differ in weight, or not, as declared",
    "cost": "the counted passes fit the declared cost",
    "own behaviour": "no other built-in strategy with the same terms gives the same weights",
}


def check(target: str | Path) -> Report:
    """Test a strategy by its name in a study (wrappers too), or every strategy and wrapper that a Python file registers.

    Raises UserError for an unknown name, a missing file, and a file that cannot be imported or registers nothing.
    """
    names = _names_in_file(Path(target)) if _is_file_name(target) else [str(target)]
    try:
        return Report(tuple(check_strategy(resolve(name)) for name in names))
    except UnknownStrategyError as error:
        raise UserError(f"{error}. To check strategies of your own, give the path of their .py file") from error


def check_strategy(registered: Registered) -> StrategyReport:
    """All checks of one strategy; those after a failed declaration are left out."""
    faults = list(declaration_faults(registered))
    done = ["declaration", "settings", "search space", "needs"]
    if not faults:
        if reason := registered.refuses(registered.settings(), CLASSES):
            faults.append(("runs", f"refuses to run here, with {CLASSES} classes and default settings: {reason}"))
            done.append("runs")
        else:
            done = list(CHECKS)
            try:
                faults += behaviour_faults(registered)
            except Exception as error:  # whatever a strategy does wrong is a finding, not a crash of the check
                faults.append(("runs", _where(error)))
                done = done[: done.index("runs") + 1]
    by_check: dict[str, list[str]] = {name: [] for name in done}
    for name, message in faults:
        by_check[name].append(message)
    findings = tuple(Finding(CHECKS[name], not messages, "; ".join(messages)) for name, messages in by_check.items())
    return StrategyReport(registered.name, registered.origin, findings)


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (raised at {last.filename}:{last.lineno}, in {last.name})"


def _is_file_name(target: str | Path) -> bool:
    return isinstance(target, Path) or target.endswith(".py")


def _names_in_file(file: Path) -> list[str]:
    try:
        load_plugin(file)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        raise UserError(f"{file}: importing it failed with {_where(error)}") from error
    source = str(file.resolve())
    found = [name for name in strategy_names() if inspect.getsourcefile(resolve(name).strategy) == source]
    # a wrapper is tested around a sample-wise strategy
    wrapped = [f"{name}(wsl)" for name in wrapper_names()]
    found += [name for name in wrapped if inspect.getsourcefile(resolve(name).wrappers[0]) == source]
    if not found:
        raise UserError(
            f"{file} registers no strategy. Put `@register` (from strategies import register) above the class, and give the "
            "class a `name`"
        )
    return found
