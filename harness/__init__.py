"""A Ray-based benchmark of loss-weighting strategies for knowledge distillation."""

__version__ = "0.1.0"
