"""Two real processes: gathering and sums. Whole trainings on two are in test_every_strategy.py."""

from __future__ import annotations

from tests.harness.two_workers import run_on_two_workers

BODY = """
own = torch.arange(ranks.rank * 10, ranks.rank * 10 + 3 + ranks.rank)
assert ranks.gather_rows(own).tolist() == [0, 1, 2, 10, 11, 12, 13]
wide = own.expand(2, -1).float()
assert ranks.gather_rows(wide, dim=1).shape == (2, 7)
from harness.ranks import of_all_ranks, own_rows
for rows in (5, 1):  # of a single row, one rank has none
    whole = {"a": torch.randn(2, rows), "b": torch.arange(rows), "c": torch.randn(rows) > 0, "d": torch.randn(rows).half()}
    dist.broadcast_object_list(shared := [whole])
    (whole,) = shared
    mine = {name: values[..., own_rows(rows, ranks)] for name, values in whole.items()}
    found = of_all_ranks(mine, rows, ranks)
    assert all(torch.equal(found[name], values) and found[name].dtype == values.dtype for name, values in whole.items())
total = torch.tensor([1.0 + ranks.rank])
ranks.sum_([total])
assert total.item() == 3.0
# sum over all pairs of rows of both ranks of x_i * x_j: its gradient is twice the sum of all rows, on either rank
mine = own.float().requires_grad_()
everyone = ranks.gather_with_gradient(mine)
assert everyone.tolist() == [0, 1, 2, 10, 11, 12, 13]
(mine[:, None] * everyone[None, :]).sum().backward()
assert mine.grad.tolist() == [98.0] * len(own)
"""


def test_rows_are_gathered_and_tensors_summed_over_the_ranks() -> None:
    run_on_two_workers(BODY)
