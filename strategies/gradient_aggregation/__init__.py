"""Weights from the inner products of the terms' gradients."""
