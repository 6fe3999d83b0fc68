"""Tables, plots and the page of a result store."""

from harness.report.build import Report, build_report

__all__ = ["Report", "build_report"]
