"""A trained classifier as a Hugging Face directory, which `from_pretrained` and `pipeline` read without this package."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.used_tokens import embed_all_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_classifier(model: PreTrainedModel, tokenizer: Any, labels: Sequence[str], max_length: int, folder: Path) -> None:
    """Write model.safetensors, config.json and the tokenizer's files into `folder`, which exists.

    The configuration names the classes in their order and what kind of problem this is; the tokenizer knows its longest input
    and gives no token types to a model that has none. The word embedding is whole again afterwards (`used_tokens`).
    """
    embed_all_tokens(model)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: k for k, name in enumerate(labels)}
    model.config.problem_type = "single_label_classification"
    with quiet_transformers():
        model.save_pretrained(folder)
    own = copy.deepcopy(tokenizer)  # the training goes on with the given one
    own.backend_tokenizer.no_truncation()
    own.backend_tokenizer.no_padding()
    own.model_max_length = max_length
    if getattr(model.config, "type_vocab_size", 0) < 2:  # `run_model` leaves them out, too
        own.model_input_names = [name for name in own.model_input_names if name != "token_type_ids"]
        own.init_kwargs["model_input_names"] = own.model_input_names
    own.save_pretrained(folder)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' load report and progress bars off the console; its settings are put back."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
