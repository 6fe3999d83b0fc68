"""Tokenizers: a pretrained model's own, or a word-level one made from the task's training text."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checksums import remove_damaged, sealed_folder
from harness.errors import ModelError
from harness.models.sources import model_directory
from harness.study.schema import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LARGEST_VOCABULARY = 30_000
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD_ID = 0
_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


def load_tokenizer(spec: ModelSpec, texts: Iterable[str], cache: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model.

    `words`, the default for a model from a configuration, is a word-level tokenizer with the vocabulary of `texts`, made once
    and kept in `cache`. Any other is read from the model, or from what `spec.tokenizer` names; `texts` is not read then.
    Raises ModelError.
    """
    source = spec.tokenizer or ("words" if spec.model is None else spec.model)
    if source == "words":
        return _words(texts, cache)
    return _pretrained(source, spec.revision if source == spec.model else None)


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """The same for tokenizers that give the same ids, whatever they are called."""
    # the serialised form carries the truncation and padding of the last call
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        text = backend.to_str()
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
    content = repr((text, tokenizer.pad_token_id, tokenizer.model_input_names, tokenizer.padding_side))
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _pretrained(source: str, revision: str | None) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    directory = model_directory(source, revision)
    if not any((directory / name).is_file() for name in _VOCABULARY_FILES) and not any(directory.glob("*.model")):
        # transformers would make a tokenizer without a vocabulary
        raise ModelError(
            f"model {source!r} has no tokenizer: none of {', '.join(_VOCABULARY_FILES)} is in its directory. "
            "Name another one with `tokenizer:`, or `tokenizer: words` for a model that starts from random weights."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"model {source!r} has no tokenizer that can be read ({str(error).splitlines()[0]}). "
            "Name another one with `tokenizer:`."
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(f"model {source!r} has only a slow tokenizer; give a `tokenizer:` that has a tokenizer.json")
    if tokenizer.pad_token is None:  # as in decoders; masked, so any token does
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _words(texts: Iterable[str], cache: Path) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    lines = list(texts)
    content = hashlib.sha256()
    for line in lines:
        content.update(line.encode("utf-8", "surrogatepass") + b"\x00")
    folder = cache / "tokenizers" / f"words-{content.hexdigest()[:24]}"
    if damage := remove_damaged(folder):
        logging.getLogger("harness").warning("%s", damage)
    if not folder.is_dir():
        _make_words(lines, folder)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / _VOCABULARY_FILES[0])),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _make_words(lines: list[str], folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(vocab_size=LARGEST_VOCABULARY, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    with sealed_folder(folder) as unfinished:
        tokenizer.save(str(unfinished / _VOCABULARY_FILES[0]))
