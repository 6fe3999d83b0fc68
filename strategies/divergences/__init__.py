"""Strategies that choose, or mix, the divergence between teacher and student."""
