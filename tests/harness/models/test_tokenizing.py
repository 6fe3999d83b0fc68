import pytest

from harness.errors import ModelError
from harness.models.tokenizing import load_tokenizer, tokenizer_digest
from harness.study.schema import ModelSpec
from tests.harness.small_models import CONFIGS, MINILM, save_small

TEXTS = ["A cat sat.", "the cat, the mat", "a dog"]


def test_words_are_the_training_text_s(tmp_path):
    spec = ModelSpec(config=CONFIGS["bert"])
    tokenizer = load_tokenizer(spec, TEXTS, tmp_path)
    assert [tokenizer.convert_tokens_to_ids(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]
    assert set(tokenizer.get_vocab()) - {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} == {
        "a",
        "cat",
        "sat",
        ".",
        "the",
        ",",
        "mat",
        "dog",
    }
    pair = tokenizer("The CAT", "a zebra")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "the", "cat", "[SEP]", "a", "[UNK]", "[SEP]"]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    short = tokenizer("the cat the cat", "a dog", truncation="longest_first", max_length=7)
    assert tokenizer.convert_ids_to_tokens(short["input_ids"]).count("[SEP]") == 2


def test_words_are_made_once_and_alike(tmp_path):
    spec = ModelSpec(config=CONFIGS["bert"])
    digests = {tokenizer_digest(load_tokenizer(spec, iter(TEXTS), tmp_path / name)) for name in ("a", "a", "b")}
    assert len(digests) == 1
    assert len(list((tmp_path / "a" / "tokenizers").iterdir())) == 1
    assert tokenizer_digest(load_tokenizer(spec, [*TEXTS, "new"], tmp_path / "a")) not in digests


def test_the_use_of_a_tokenizer_does_not_change_its_digest(tmp_path):
    tokenizer = load_tokenizer(ModelSpec(config=CONFIGS["bert"]), TEXTS, tmp_path)
    before = tokenizer_digest(tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=4, padding="max_length")
    assert tokenizer_digest(tokenizer) == before
    assert len(tokenizer(TEXTS[0], truncation=True, max_length=4)["input_ids"]) == 4


def test_a_pretrained_tokenizer_is_the_model_s_own(tmp_path, capfd):
    tokenizer = load_tokenizer(ModelSpec(model=MINILM), iter(()), tmp_path)
    assert len(tokenizer) == 30522
    assert tokenizer.convert_ids_to_tokens(tokenizer("Hello world")["input_ids"]) == ["[CLS]", "hello", "world", "[SEP]"]
    borrowed = load_tokenizer(ModelSpec(config=CONFIGS["bert"], tokenizer=MINILM), iter(()), tmp_path)
    assert tokenizer_digest(borrowed) == tokenizer_digest(tokenizer)
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    saved = save_small(tmp_path / "saved")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(saved)
    assert load_tokenizer(ModelSpec(model=str(saved)), iter(()), tmp_path).pad_token == "<end>"


def test_a_model_without_a_tokenizer_says_what_to_do(tmp_path):
    saved = save_small(tmp_path / "saved")
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(ModelSpec(model=str(saved)), iter(()), tmp_path)
