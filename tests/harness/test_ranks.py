"""Two real processes: gathering and sums. Whole trainings on two are in test_every_strategy.py."""

from __future__ import annotations

from tests.harness.two_workers import run_on_two_workers

BODY = """
own = torch.arange(ranks.rank * 10, ranks.rank * 10 + 3 + ranks.rank)
assert ranks.gather_rows(own).tolist() == [0, 1, 2, 10, 11, 12, 13]
wide = own.expand(2, -1).float()
assert ranks.gather_rows(wide, dim=1).shape == (2, 7)
total = torch.tensor([1.0 + ranks.rank])
ranks.sum_([total])
assert total.item() == 3.0
"""


def test_rows_are_gathered_and_tensors_summed_over_the_ranks() -> None:
    run_on_two_workers(BODY)
