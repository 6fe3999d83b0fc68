"""Train the word embeddings of the tokens that occur, and no others: the same training for a fraction of its memory traffic.

A vocabulary has 30,000 tokens and more, a task's rows use a few thousand. The gradient of every other row of the table is zero
at every step, and yet clipping, AdamW and a look-ahead's perturbation would pass over it: in a small student, over most of its
parameters.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from harness.data.encode import Encoded

WORTHWHILE = 0.75
"""The table is left whole where more than this share of it is in use."""


class UsedTokenEmbedding(nn.Module):
    """Stands in for an `nn.Embedding` while a model is trained; takes the same token ids.

    One row more than there are tokens is kept, of ones and never looked up: AdamW's weight decay shrinks it as it would every
    row that is not here, so `whole` can give those what they would have become.
    """

    def __init__(self, whole: nn.Embedding, tokens: Tensor) -> None:
        """`tokens`: [used] int64, sorted; any other id raises IndexError (on a GPU, a device-side assertion)."""
        super().__init__()
        self.num_embeddings = whole.num_embeddings
        self.embedding_dim = whole.embedding_dim
        self._whole = (whole,)  # not a submodule: its weights are not trained
        self._tokens = tokens
        weight = whole.weight.detach()
        self.weight = nn.Parameter(
            torch.cat([weight[tokens], weight.new_ones(1, self.embedding_dim)]), requires_grad=whole.weight.requires_grad
        )
        row_of = torch.full((self.num_embeddings,), len(tokens) + 1, device=weight.device)  # beyond the last row
        row_of[tokens] = torch.arange(len(tokens), device=weight.device)
        self.register_buffer("row_of", row_of, persistent=False)
        padding = whole.padding_idx
        self.padding_row = None if padding is None else int(row_of[padding])

    def forward(self, ids: Tensor) -> Tensor:
        """[..., embedding_dim] of token ids [...]."""
        assert isinstance(self.row_of, Tensor)
        return embedding(self.row_of[ids], self.weight, self.padding_row)

    def whole(self) -> nn.Embedding:
        """The embedding that this stands in for, with all rows as training has left them."""
        (whole,) = self._whole
        trained = self.weight.detach()
        with torch.no_grad():
            whole.weight.mul_(trained[-1])
            whole.weight[self._tokens] = trained[:-1]
        return whole


def embed_used_tokens(model: nn.Module, rows: Iterable[Encoded]) -> None:
    """Let the model embed the tokens of these rows alone, until `embed_all_tokens`.

    Nothing changes where that would save little, or where the embedding is not a plain one of its own.
    """
    whole = _plain_embedding(model)
    if whole is None:
        return
    used = np.zeros(whole.num_embeddings, dtype=bool)
    for encoded in rows:
        used[encoded.tokens] = True
        used[[encoded.pad_token, *encoded.special_tokens]] = True
    if whole.padding_idx is not None:
        used[whole.padding_idx] = True
    if used.mean() > WORTHWHILE:
        return
    tokens = torch.from_numpy(np.flatnonzero(used)).to(whole.weight.device)
    model.set_input_embeddings(UsedTokenEmbedding(whole, tokens))  # type: ignore[operator]


def embed_all_tokens(model: nn.Module) -> None:
    """Undo `embed_used_tokens`, if it was done; what was trained stays."""
    used = _embedding(model)
    if isinstance(used, UsedTokenEmbedding):
        model.set_input_embeddings(used.whole())  # type: ignore[operator]


def _embedding(model: nn.Module) -> nn.Module | None:
    """What the model embeds token ids with; None for a model that does not say."""
    get = getattr(model, "get_input_embeddings", None)
    return None if get is None else get()


def _plain_embedding(model: nn.Module) -> nn.Embedding | None:
    """The word embedding, if it is a plain one whose weight no other module has."""
    found = _embedding(model)
    if type(found) is not nn.Embedding or found.max_norm is not None or found.scale_grad_by_freq or found.sparse:
        return None
    owners = sum(1 for module in model.modules() for p in module.parameters(recurse=False) if p is found.weight)
    return found if owners == 1 else None
