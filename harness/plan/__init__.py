"""From a study to cells and trials: identities, seeds, searches, checks, costs. No torch, no Ray."""

from harness.plan.plan import Plan, load_plan

__all__ = ["Plan", "load_plan"]
