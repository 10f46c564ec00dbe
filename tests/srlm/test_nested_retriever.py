"""One and the same bi-encoder, as itself and nested in a self-retrieval LM: equal vectors, and equal errors."""

import copy
import pickle
import random
import shutil
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.retriever_srlm import RetrieverSettings
from modeling_srlm.retrievers_srlm import load_retriever
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "target_size": 32}
PROMPTS = {"query": "ask: ", "passage": "text: ", "passage_suffix": " end", "query_suffix": "?"}
TEXTS = ["a", "the library reads long documents and looks back at what came before it", "", "copper lantern"]


def tokenizer_of(*, eos: bool = True, pad: bool = True, side: str = "left", around: str = "") -> Any:
    """A tiny tokenizer, without an end-of-sequence or padding token, or one that puts special tokens around a text."""
    tokenizer = tiny_tokenizer(side)
    if around:
        special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=around, special_tokens=special)
    if not eos:
        tokenizer.eos_token = None
    if not pad:
        tokenizer.pad_token = None
    return tokenizer


def biencoder(family: str = "llama", tokenizer: PreTrainedTokenizerBase | None = None, **config: Any) -> Any:
    backbone = tiny_backbone(family, seed=3, lm_head=False, num_hidden_layers=1)
    return BiEncoderModel.from_backbone(backbone, tokenizer or tiny_tokenizer(), **config)


def nested_in_lm(encoder: BiEncoderModel) -> SelfRetrievalLM:
    return SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), encoder, **SETTINGS)


def outcome(encoder: Any, texts: list[str], role: str) -> torch.Tensor | tuple[type[Exception], str]:
    """The vectors, or what was raised."""
    try:
        return encoder.encode(texts, role=role)
    except (ValueError, TypeError) as error:
        return type(error), str(error)


def assert_alike(found: Any, wanted: Any, what: object) -> None:
    if isinstance(wanted, torch.Tensor) and isinstance(found, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=lambda text: f"{what}: {text}")
    else:
        assert found == wanted, what


def test_a_prompt_longer_than_max_length_is_refused():
    retriever = nested_in_lm(biencoder(max_length=12, prompts={"default": {"query": TEXT}})).retriever
    with pytest.raises(ValueError, match="max_length=12 leaves no room for a text"):
        retriever.encode(["lantern"], role="query")
    assert retriever.encode(["lantern"], role="passage").shape == (1, 32)


@pytest.mark.parametrize("separate_prompts", [False, True])
def test_no_more_than_max_length_tokens_are_embedded(separate_prompts):
    seen = []
    model = nested_in_lm(biencoder(max_length=16, prompts={"default": PROMPTS}, separate_prompts=separate_prompts))
    model.retriever.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["attention_mask"].sum(1).tolist()), with_kwargs=True
    )
    model.retriever.encode([TEXT, "lantern", TEXT], role="passage")
    assert len(seen) == 3 and max(seen) == 16 and min(seen) < 16


def test_a_text_without_tokens_is_the_padding_token_where_there_is_no_end_of_sequence():
    encoder = biencoder(tokenizer=tokenizer_of(eos=False), prompts={})
    wanted = encoder.embed(torch.tensor([[encoder.tokenizer.pad_token_id]]))
    assert_alike(nested_in_lm(encoder).retriever.encode([""]), wanted, "pad")


def test_append_eos_without_an_end_of_sequence_token_is_refused():
    retriever = nested_in_lm(biencoder(tokenizer=tokenizer_of(eos=False), append_eos=True)).retriever
    with pytest.raises(ValueError, match="append_eos=True, but the tokenizer has no eos_token"):
        retriever.encode(["lantern"])


def random_text(rng: random.Random) -> str:
    """Nothing, blanks, emoji, letters with marks, special tokens spelled out, or up to 30 words."""
    words = ["lantern", "the", "library", "\U0001f600\U0001f3fd", "\u00e9t\u00e9", "</s>", "<pad>", "\n", "a"]
    return rng.choice(["", " ", "\U0001f600", " ".join(rng.choices([*words, *TEXT.split()], k=rng.randint(1, 30)))])


def random_case(rng: random.Random) -> dict[str, Any]:
    """Settings of a bi-encoder, some of which it refuses."""
    affixes = ["", "ask: ", "Represent the text for finding it: ", " end", "</s>", "\U0001f600"]
    return {
        "family": rng.choice(["llama", "gpt2", "bert"]),
        "tokenizer": tokenizer_of(
            eos=rng.random() < 0.8, pad=rng.random() < 0.7, side=rng.choice(["left", "right"]),
            around=rng.choice(["", "", "<s> $A", "<s> $A </s>"]),
        ),
        "pooling": rng.choice(["last_token", "cls", "mean", "mean_last_k"]),
        "pooling_k": rng.randint(1, 9),
        "normalize": rng.random() < 0.5,
        "bidirectional": rng.random() < 0.5,
        "append_eos": rng.random() < 0.4,
        "separate_prompts": rng.random() < 0.5,
        "max_length": rng.choice([4, 12, 16, 24, 40, 2048]),
        "prompts": {"default": {key: rng.choice(affixes) for key in rng.sample(list(PROMPTS), rng.randint(0, 4))}},
    }  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 20))])
def test_the_vectors_are_those_of_the_biencoder(seed):
    rng = random.Random(seed)
    refused = 0
    for number in range(6):
        case = random_case(rng)
        encoder = biencoder(**case)
        texts = [random_text(rng) for _ in range(rng.randint(1, 8))]
        wanted = {role: outcome(encoder, texts, role) for role in ("query", "passage")}
        retriever = nested_in_lm(encoder).retriever
        for role, expected in wanted.items():
            assert_alike(outcome(retriever, texts, role), expected, (seed, number, role, case, texts))
            refused += not isinstance(expected, torch.Tensor)
    assert refused < 12, "every case was refused: nothing was compared"


@pytest.mark.cases(2)
@pytest.mark.parametrize("seed", range(6))
def test_the_vectors_stay_when_it_is_saved_and_loaded(seed, tmp_path):
    rng = random.Random(1000 + seed)
    case, texts = random_case(rng), [random_text(rng) for _ in range(4)]
    encoder = biencoder(**case)
    wanted = {role: outcome(encoder, texts, role) for role in ("query", "passage")}
    nested_in_lm(encoder).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for role, expected in wanted.items():
        assert_alike(outcome(loaded.retriever, texts, role), expected, (seed, role, case, texts))


@pytest.mark.parametrize(
    ("texts", "role"), [("one text", "query"), (["a", None], "query"), (["a"], "document"), ([], "query")]
)
def test_the_same_is_refused(texts, role):
    encoder = biencoder(max_length=24)
    assert_alike(outcome(nested_in_lm(encoder).retriever, texts, role), outcome(encoder, texts, role), (texts, role))


@pytest.mark.parametrize("most", [1, 20, 2000])
def test_batches_change_no_vector(most, monkeypatch):
    encoder, texts = biencoder(pooling="mean"), [*TEXTS, TEXT, TEXT[:90]]
    retriever = nested_in_lm(encoder).retriever
    monkeypatch.setattr("modeling_srlm.prompting_srlm.CPU_TOKENS", most)
    wanted = torch.cat([encoder.encode([text]) for text in texts])
    for batch_size in (1, 4, 64):
        torch.testing.assert_close(retriever.encode(texts, "query", batch_size), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"pooling": "max"}, ValueError, "Did you mean 'mean'"),
        ({"max_length": 0}, ValueError, "max_length=0 must be at least 1"),
        ({"append_eos": "no"}, TypeError, "append_eos='no' must be True or False"),
        ({"prompts": {"querry": ""}}, ValueError, "did you mean 'query'"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        RetrieverSettings(**settings)


def test_a_pickled_retriever_is_refused_before_it_is_read(tmp_path):
    backbone = tiny_backbone("bert", lm_head=False)
    backbone.config.save_pretrained(tmp_path)
    torch.save(backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_retriever(str(tmp_path))
    with pytest.raises(ValueError, match="use_safetensors=False would read a pickle"):
        load_retriever(str(tmp_path), use_safetensors=False)


def test_a_copy_and_a_subfolder_know_the_tokenizer(tmp_path):
    """The retriever finds its tokenizer by itself, without a question to the model first."""
    encoder = biencoder()
    nested_in_lm(encoder).save_pretrained(tmp_path / "inner")
    loaded = SelfRetrievalLM.from_pretrained(tmp_path, subfolder="inner")
    for retriever in (copy.deepcopy(loaded.retriever), pickle.loads(pickle.dumps(loaded.retriever)), loaded.retriever):
        assert_alike(retriever.encode(TEXTS), encoder.encode(TEXTS, role="passage"), "after loading")
    assert loaded.retriever_tokenizer is loaded.retriever.tokenizer


def test_a_retriever_without_a_tokenizer_is_named(tmp_path):
    nested_in_lm(biencoder()).save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "retriever_tokenizer")
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from .*'retriever_tokenizer'"):
        SelfRetrievalLM.from_pretrained(tmp_path).retriever.encode(["lantern"])
    with pytest.raises(ValueError, match=r"set model\.retriever\.tokenizer"):
        SelfRetrievalLM(SelfRetrievalLM.from_pretrained(tmp_path).config).retriever.encode(["lantern"])
