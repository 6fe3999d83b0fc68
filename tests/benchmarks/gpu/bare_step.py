"""A step of plain KD as one would write it by hand, on one batch: what the harness's own step is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def made_up_batch(batch: int, length: int, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens [batch, length], mask [batch, 1, length, length], labels [batch], teacher logits [batch, 2]. Half are padded."""
    tokens = torch.randint(4, vocabulary, (batch, length), device=device)
    keep = torch.ones(batch, 1, 1, length, dtype=torch.bool, device=device)
    keep[: batch // 2, ..., -2:] = False
    # of four dimensions: transformers takes it as it is, and does not ask the GPU whether anything is padded
    mask = keep.expand(batch, 1, length, length).contiguous()
    return tokens, mask, torch.randint(0, 2, (batch,), device=device), torch.randn(batch, 2, device=device)


def bare_step(model: Any, optimizer: torch.optim.Optimizer, call: Any, given: tuple[Tensor, ...]) -> Callable[[], None]:
    """One optimiser step in bf16. `call`: the model, or what it was compiled to."""
    tokens, mask, labels, teacher = given

    def step() -> None:
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
            logits = call(input_ids=tokens, attention_mask=mask).logits
        logits = logits.float()
        kd = F.kl_div(F.log_softmax(logits / 2, -1), F.log_softmax(teacher / 2, -1), log_target=True, reduction="batchmean")
        loss = 0.5 * F.cross_entropy(logits, labels) + 2 * kd
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step
