"""What the conformance tests found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    check: str
    passed: bool
    message: str = ""
    """What to change, where it failed."""


@dataclass(frozen=True)
class StrategyReport:
    name: str
    origin: str
    """File and line of the class."""
    findings: tuple[Finding, ...]
    card: str = ""
    """What its weights went with, as a table; empty where the strategy did not run."""

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.origin})"]
        for finding in self.findings:
            lines.append(f"  {'ok  ' if finding.passed else 'FAIL'} {finding.check}")
            if finding.message:
                lines.append(f"       {finding.message}")
        lines += [f"  {line}" for line in self.card.splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    strategies: tuple[StrategyReport, ...]

    @property
    def passed(self) -> bool:
        return all(strategy.passed for strategy in self.strategies)

    def __str__(self) -> str:
        failed = sum(not finding.passed for strategy in self.strategies for finding in strategy.findings)
        total = sum(len(strategy.findings) for strategy in self.strategies)
        end = f"{total} checks passed" if not failed else f"{failed} of {total} checks failed"
        return "\n".join([*(str(strategy) for strategy in self.strategies), end])
