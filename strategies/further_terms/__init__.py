"""Strategies that weigh further loss terms."""
