"""Weights learned through a look-ahead, or together with the student."""
