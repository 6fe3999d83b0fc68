"""Strategies for weighting the losses of knowledge distillation; one a file.

A strategy knows nothing of tasks, Ray or files. `strategies.base` is the contract, `strategies.registry` the table of names.
"""

from strategies.base import (
    Context,
    Cost,
    Needs,
    Normalisation,
    RoleView,
    Settings,
    Setup,
    Strategy,
    TermShape,
    Weights,
)
from strategies.registry import Wrapper, load_plugin, register, register_wrapper, resolve, strategy_names, wrapper_names
from strategies.space import Choice, FloatRange, IntRange

__all__ = [
    "Choice",
    "Context",
    "Cost",
    "FloatRange",
    "IntRange",
    "Needs",
    "Normalisation",
    "RoleView",
    "Settings",
    "Setup",
    "Strategy",
    "TermShape",
    "Weights",
    "Wrapper",
    "load_plugin",
    "register",
    "register_wrapper",
    "resolve",
    "strategy_names",
    "wrapper_names",
]
