"""Conformance tests of any strategy or loss term: built in, wrapped, in a plugin file, or from an installed package."""

from __future__ import annotations

import inspect
from pathlib import Path

from harness.conformance.behaviour import behaviour_faults
from harness.conformance.behaviour_card import behaviour_card, claim_faults
from harness.conformance.declaration import declaration_faults
from harness.conformance.findings import Finding, Report, StrategyReport
from harness.conformance.terms import check_term, terms_in_file
from harness.conformance.tiny_training import CLASSES
from harness.errors import UserError, with_place
from harness.loss_terms.registry import term_names
from strategies.registry import Registered, UnknownStrategyError, load_plugin, resolve, strategy_names, wrapper_names

__all__ = ["CHECKS", "Finding", "Report", "StrategyReport", "check"]

CHECKS = {
    "declaration": "name, family, summary, paper, sample_wise, normalisation and cost are declared",
    "settings": "every setting has a valid default and a description",
    "search space": "every searched value is a value that the setting takes",
    "needs": "the declared needs fit together",
    "fidelity": "the class's docstring says how it compares with the paper",
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
    "claims": "weights rise and fall with what the docstring claims, in a small training",
    "own behaviour": "no other built-in strategy with the same terms gives the same weights",
}


def check(target: str | Path) -> Report:
    """Test a strategy by its name in a study (wrappers too), a loss term by its name, or every strategy, wrapper and loss term
    that a Python file registers.

    Raises UserError for an unknown name, a missing file, and a file that cannot be imported or registers nothing.
    """
    if _is_file_name(target):
        file = Path(target)
        names, terms = _names_in_file(file), terms_in_file(file)
        if not names and not terms:
            raise UserError(
                f"{file} registers no strategy and no loss term. Put `@register` (from strategies import register) above a "
                "strategy's class, or `@register_term` (from harness.loss_terms import register_term) above a loss term's, and "
                "give the class a `name`"
            )
    else:
        names, terms = ([], [str(target)]) if target in term_names() else ([str(target)], [])
    try:
        found = [check_term(name) for name in terms] + [check_strategy(resolve(name)) for name in names]
    except UnknownStrategyError as error:
        raise UserError(f"{error}. To check strategies of your own, give the path of their .py file") from error
    return Report(tuple(found))


def check_strategy(registered: Registered) -> StrategyReport:
    """All checks of one strategy; those after a failed declaration are left out."""
    faults = list(declaration_faults(registered))
    done = ["declaration", "settings", "search space", "needs", "fidelity"]
    card = ""
    if not faults:
        if reason := registered.refuses(registered.settings(), CLASSES):
            faults.append(("runs", f"refuses to run here, with {CLASSES} classes and default settings: {reason}"))
            done.append("runs")
        else:
            done = list(CHECKS)
            try:
                faults += behaviour_faults(registered)
                found = behaviour_card(registered)
                faults += claim_faults(registered, found)
                card = str(found)
            except Exception as error:  # whatever a strategy does wrong is a finding, not a crash of the check
                faults.append(("runs", with_place(error, inspect.getsourcefile(registered.strategy))))
                done = done[: done.index("runs") + 1]
    by_check: dict[str, list[str]] = {name: [] for name in done}
    for name, message in faults:
        by_check[name].append(message)
    findings = tuple(Finding(CHECKS[name], not messages, "; ".join(messages)) for name, messages in by_check.items())
    return StrategyReport(registered.name, registered.origin, findings, card)


def _is_file_name(target: str | Path) -> bool:
    return isinstance(target, Path) or target.endswith(".py")


def _names_in_file(file: Path) -> list[str]:
    try:
        load_plugin(file)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        raise UserError(f"{file}: importing it failed with {with_place(error, file)}") from error
    source = str(file.resolve())
    found = [name for name in strategy_names() if inspect.getsourcefile(resolve(name).strategy) == source]
    # a wrapper is tested around a sample-wise strategy
    wrapped = [f"{name}(wsl)" for name in wrapper_names()]
    found += [name for name in wrapped if inspect.getsourcefile(resolve(name).wrappers[0]) == source]
    return found
