"""What the harness costs, side by side with other ways to do the same work. `python -m tests.benchmarks --help`."""
