"""Statistics of the report: pure functions on arrays and frames, deterministic, each checked against another computation.

Scores are arrays [strategies, tasks, repeats]; NaN where a cell is missing. Fractions, not points, unless a name says so.
"""
