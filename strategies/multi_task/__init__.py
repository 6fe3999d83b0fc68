"""Weights that balance whole terms against each other."""
