"""What stands before every text is read once: the embeddings are those of reading each text whole."""

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel, instruction_prompt
from modeling_biencoder.backbone_biencoder import BIDIRECTIONAL_DECODERS
from modeling_biencoder.encoding_biencoder import tokenize
from modeling_biencoder.prefix_biencoder import LEAST_SHARED, KeptPrefix, RowReader, shares_prefixes
from modeling_biencoder.prompting_biencoder import embed_rows
from tests.support.decoders import SPECIAL, backbone
from tests.support.tiny import random_ids, tiny_tokenizer
from trainers import add_adapter

USUAL = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2", "opt")  # the others are tested as slow
TEXTS = ["lantern", "the copper lantern on the island", "", "who looks back at what came before? " * 3, "candle"]
EXAMPLES = [("where is the candle", "on the island"), ("who reads", "the library")]


def icl_model(family: str = "llama", attention: str = "sdpa", side: str = "left", backbone_settings=None, **config):
    window = {"sliding_window": 24} if "sliding_window" in SPECIAL.get(family, {}) else {}  # shorter than the prefix
    settings = {"max_position_embeddings": 256, **window, **(backbone_settings or {})}
    prompts = {"default": instruction_prompt("Find the answer.")}
    return BiEncoderModel.from_backbone(
        backbone(family, attention, **settings),
        tiny_tokenizer(side),
        **{"max_length": 250, "prompts": prompts} | config,
    )


@torch.no_grad()
def read_whole(model: BiEncoderModel, texts: list[str], examples=EXAMPLES, **settings) -> torch.Tensor:
    """(n, d) embeddings, each text's in a pass of its own, from its first token on."""
    rows = tokenize(texts, model.tokenizer, model.config, "query", None, examples)
    return torch.cat([model.embed(torch.tensor([row]), **settings) for row in rows])


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the token ids that go through a backbone with a kept prefix, the prefix itself first."""
    read, shapes = KeptPrefix.read, []

    def spy(self, model, input_ids, mask):
        shapes.append(tuple(input_ids.shape))
        return read(self, model, input_ids, mask)

    monkeypatch.setattr(KeptPrefix, "read", spy)
    return shapes


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "family",
    [family if family in USUAL else pytest.param(family, marks=pytest.mark.slow) for family in BIDIRECTIONAL_DECODERS],
)
def test_behind_a_prefix_read_once_every_text_keeps_its_embedding(family: str, attention: str, passes) -> None:
    model = icl_model(family, attention, "left" if attention == "eager" else "right")
    whole = read_whole(model, TEXTS)
    assert torch.pdist(whole).min() > 1e-3
    shared = len(tokenize([""], model.tokenizer, model.config, "query", None, EXAMPLES)[0])
    for batch_size in (2, 32):
        passes.clear()
        torch.testing.assert_close(
            model.encode(TEXTS, examples=EXAMPLES, batch_size=batch_size), whole, rtol=0, atol=1e-5
        )
        assert passes[0] == (1, shared) and sum(rows for rows, _ in passes[1:]) == len(TEXTS)
        assert sum(rows * length for rows, length in passes[1:]) < 2 * shared  # of 5 texts


@pytest.mark.parametrize("pooling", ["last_token", "mean", "cls", "mean_last_k"])
def test_every_pooling_is_that_of_the_whole_text(pooling: str, passes) -> None:
    """Of the empty text the last 40 tokens reach into what is shared, so less is."""
    model = icl_model(
        pooling=pooling, pooling_k=40, embedding_dims=[8, 32], dense=[{"in_features": 32, "out_features": 32}]
    )
    found = model.encode(TEXTS, examples=EXAMPLES, truncate_dim=8, batch_size=1)
    torch.testing.assert_close(found, read_whole(model, TEXTS, truncate_dim=8), rtol=0, atol=1e-5)
    assert len(passes) > 1
    assert pooling != "mean_last_k" or min(length for _, length in passes) == 40


def test_a_text_that_changes_how_its_prompt_ends_shares_less(passes) -> None:
    prompt = "Speak of lanterns, candles and hammers; of islands; where did we leave them, and who looks? In the li"
    model = icl_model(prompts={"default": {"query": prompt}})
    texts = ["brary reads", "on the island"]
    rows = tokenize(texts, model.tokenizer, model.config)
    alone = model.tokenizer(prompt)["input_ids"]
    assert rows[0][: len(alone)] != alone == rows[1][: len(alone)] and len(alone) > LEAST_SHARED + 1
    torch.testing.assert_close(model.encode(texts), read_whole(model, texts, None), rtol=0, atol=1e-5)
    assert len(passes) == 2 and passes[1][1] > len(rows[1]) - len(alone)


def test_one_text_or_little_in_common_is_read_whole(passes) -> None:
    model = icl_model()
    model.encode(["lantern"], examples=EXAMPLES)
    model.encode(TEXTS, role="passage")
    model.config.prompts = {"default": {"query": "q: "}}
    model.encode(TEXTS)
    assert not passes


def test_texts_are_cut_as_they_are_without(passes) -> None:
    model = icl_model(max_length=140)
    texts = [TEXTS[3] * 9, "candle"]
    torch.testing.assert_close(model.encode(texts, examples=EXAMPLES), read_whole(model, texts), rtol=0, atol=1e-5)
    assert len(passes) == 2 and len(tokenize(texts, model.tokenizer, model.config, examples=EXAMPLES)[0]) == 140


LONG_ROPE = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "settings", "config"),
    [
        ("bert", {}, {"pooling": "mean"}),
        ("llama", {}, {"bidirectional": True}),
        ("gemma3_text", {"use_bidirectional_attention": True}, {}),
        ("llama", LONG_ROPE, {}),
    ],
    ids=["encoder", "bidirectional", "by its own configuration", "longrope"],
)
def test_where_the_beginning_depends_on_what_follows_texts_are_read_whole(family, settings, config, passes) -> None:
    model = icl_model(family, backbone_settings=settings, **config)
    assert not shares_prefixes(model)
    torch.testing.assert_close(model.encode(TEXTS, examples=EXAMPLES), read_whole(model, TEXTS), rtol=0, atol=1e-5)
    assert not passes


@pytest.mark.parametrize("kind", ["bidirectional", "longrope"])
@torch.no_grad()
def test_and_it_would_be_wrong_to_share_there(kind: str) -> None:
    """Once transformers makes these equal, they may share as well."""
    model = icl_model(backbone_settings=LONG_ROPE if kind == "longrope" else {}, bidirectional=kind == "bidirectional")
    rows = tokenize(TEXTS[:2], model.tokenizer, model.config, examples=EXAMPLES)
    whole = embed_rows(rows, model.embed, model.tokenizer, model.device)
    assert (RowReader(model, rows[0][:40], None).embed(rows) - whole).abs().max() > 1e-3
    with_one_kind = icl_model()
    whole = embed_rows(rows, with_one_kind.embed, model.tokenizer, model.device)
    assert (RowReader(with_one_kind, rows[0][:40], None).embed(rows) - whole).abs().max() < 1e-5


def test_with_an_adapter_and_in_half_precision(passes) -> None:
    model = icl_model()
    torch.manual_seed(0)
    add_adapter(model, LoraConfig(r=4, init_lora_weights=False))
    torch.testing.assert_close(model.encode(TEXTS, examples=EXAMPLES), read_whole(model, TEXTS), rtol=0, atol=1e-5)
    half = icl_model().bfloat16()
    torch.testing.assert_close(half.encode(TEXTS, examples=EXAMPLES), read_whole(half, TEXTS), rtol=0, atol=0.05)
    assert len(passes) == 4


def test_a_token_that_the_model_does_not_know_is_refused_as_ever() -> None:
    model = icl_model()
    rows = [[*random_ids(40).tolist(), 3], [*random_ids(40).tolist(), 512]]
    with pytest.raises(ValueError, match=r"input_ids holds 512, which is not in 0..511"):
        RowReader(model, rows[0], None).embed(rows)
