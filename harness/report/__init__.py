"""Tables, plots and the page of a result store."""

from harness.report.build import Report, build_report, leaderboard_text

__all__ = ["Report", "build_report", "leaderboard_text"]
