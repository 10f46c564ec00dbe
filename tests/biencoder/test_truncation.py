"""What is cut is the text alone: for every kind of tokenizer and prompt, with nothing of what lies behind the cut."""

import random
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from modeling_biencoder import BiEncoderModel
from modeling_biencoder.prompting_biencoder import tokenize_in_prompt
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer

# Ends of texts and the starts of the suffixes below, together, so that merges across the seam are learned.
ENDS = ('lantern."', "word means in one", "query?", 'he said."', "the reading")
SEAMS = [text + suffix for text in ENDS for suffix in (" means in one word:", '", in one word:', "ing", "?")]
CORPUS = [TEXT, TEXT.lower(), *SEAMS * 30, "<>", "\n", "Rpqrsvxyz:"]
SPECIAL_IDS = [("<s>", 0), ("</s>", 1)]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
PREFIXES = ["", '"', "query: ", "the li", "Represent this sentence for searching: "]
SUFFIXES = ["", " means in one word:", '", in one word:', "ing", "?", ' means "</s>', "\n<response>"]
WORDS = [*TEXT.split(), "lantern.", 'said."', "means", "word", "read", "means in", "?", "."]


def _byte_level() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=480, special_tokens=SPECIAL, initial_alphabet=alphabet)


def _whole_line(with_space: str) -> tuple[Tokenizer, trainers.Trainer]:
    """As Llama 2's and Gemma's: words are not parted, so that anything merges with anything."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=with_space, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=with_space)
    return tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, max_token_length=12)


def _unigram() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")


def _word_piece() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL)


KINDS = {
    "byte-level": _byte_level, "metaspace": lambda: _whole_line("always"), "no space": lambda: _whole_line("never"),
    "unigram": _unigram, "word-piece": _word_piece,
}  # fmt: skip


@lru_cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    tokenizer, trainer = KINDS[kind]()
    trainer.show_progress = False
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _letters(text: str) -> str:
    return "".join(text.lower().split())


def _tokens(texts: list[str], prefix: str, suffix: str, tokenizer, length: int, separate: bool = False) -> list:
    settings = SimpleNamespace(max_length=length, append_eos=False, separate_prompts=separate)
    return tokenize_in_prompt(texts, prefix, suffix, tokenizer, settings)


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


@pytest.mark.cases(4)
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_prefix_and_suffix_are_whole_and_nothing_behind_the_cut_matters(kind, suffix, separate):
    tokenizer, rng = tokenizer_of(kind), random.Random(0)
    for prefix in PREFIXES:
        least = sum(len(tokenizer.encode(part)) for part in (prefix, suffix)) + 1
        for length in (least, least + 1, least + 2, least + 9, least + 30):
            start = _text(rng, 2 * length)
            texts = [start, *(f"{start} {_text(rng, 9)}{end}" for end in ("", ".", '."', " ", " read"))]
            rows = _tokens(texts, prefix, suffix, tokenizer, length, separate)
            assert rows == [rows[0]] * len(texts), (prefix, length, "the end of the text changes its tokens")
            read = _letters(tokenizer.decode(rows[0]))
            assert length - 3 < len(rows[0]) <= length  # the suffix may be shorter behind a text than by itself
            assert read.startswith(_letters(prefix)) and read.endswith(_letters(suffix)), (prefix, length, read)
            kept = read[len(_letters(prefix)) : len(read) - len(_letters(suffix))]
            assert _letters(start).startswith(kept), (prefix, length, kept)
            assert kept or separate or not prefix, (prefix, length, read)


def test_the_first_token_of_all_is_the_tokenizers_where_it_makes_none_of_a_full_stop():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("[.,!?]"), "")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=SPECIAL_IDS)
    text, own = "the copper lantern", tokenizer("the copper lantern")["input_ids"]
    assert (own[0], own[-1]) == (0, 1)
    assert _tokens([text, "a\ud800"], "", "", tokenizer, 99) == [own, tokenizer("a\ufffd")["input_ids"]]
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]"), "")
    with pytest.raises(ValueError, match="makes no token of any of"):
        _tokens([text], "", "", tokenizer, 99)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_fits_is_tokenised_in_one_with_its_prompt(kind):
    tokenizer, rng = tokenizer_of(kind), random.Random(1)
    for prefix in PREFIXES:
        for suffix in SUFFIXES:
            text = _text(rng, 6)
            whole = tokenizer.encode(prefix + text + suffix, add_special_tokens=False)
            assert _tokens([text], prefix, suffix, tokenizer, len(whole)) == [whole]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_suffix_the_first_tokens_stay(kind):
    tokenizer, text = tokenizer_of(kind), TEXT * 3
    whole = tokenizer.encode("query: " + text, add_special_tokens=False)
    assert _tokens([text], "query: ", "", tokenizer, 60) == [whole[:60]]


def test_embeddings_of_a_model_and_of_the_retriever_in_a_language_model():
    tokenizer = tokenizer_of("byte-level")
    prompts = {"default": {"query": 'This sentence: "', "query_suffix": '", in one word:'}}
    encoder = BiEncoderModel.from_backbone(
        tiny_backbone(lm_head=False), tokenizer, prompts=prompts, max_length=32, append_eos=True
    )
    lm = SelfRetrievalLM.from_components(
        tiny_backbone(), tokenizer, encoder, context_window_size=64, chunk_size=16, key_num=2, target_size=32
    )
    texts = [TEXT + end for end in ("lantern", "lantern.", 'said."')]
    for embeddings in (encoder.encode(texts, role="query"), lm.retriever.encode(texts, role="query")):
        torch.testing.assert_close(embeddings, embeddings[:1].expand_as(embeddings))
    read = tokenizer.decode(encoder.tokenize(texts)["input_ids"][1])
    assert read.startswith('This sentence: "The library') and read.endswith('", in one word:</s>')


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("prefix", ["", "query: "])
def test_a_text_that_is_cut_is_tokenised_once_where_nothing_stands_behind_it(monkeypatch, prefix, separate):
    tokenizer, asked, call = tokenizer_of("byte-level"), [], PreTrainedTokenizerFast.__call__

    def count(self, text, **settings):
        asked.extend(text if isinstance(text, list) else [text])
        return call(self, text, **settings)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", count)
    for suffix, times in (("", 1), ("?", 1 if separate else 2)):
        asked.clear()
        (row,) = _tokens([TEXT * 3], prefix, suffix, tokenizer, 60, separate)
        assert len(row) == 60
        assert sum(TEXT in text for text in asked) == times
