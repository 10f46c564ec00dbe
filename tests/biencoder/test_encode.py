"""encode: order, prompts, truncation, end-of-sequence, examples, empty texts, widths."""

import datasets
import numpy
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from modeling_biencoder import BiEncoderModel, instruction_prompt
from modeling_biencoder.prompting_biencoder import pad_rows, split_by_tokens
from tests.support.tiny import tiny_backbone, tiny_tokenizer

TEXTS = ["the copper lantern", "", "A query finds the passage that answers it. " * 5, "candle", "hammer and candle"]
PROMPTS = {
    "default": {"query": "q: ", "passage": "p: "},
    "summary": {"query": '"', "query_suffix": '", in one word:</s>', "passage": '"'},
    "icl": instruction_prompt("Find the answer."),
}


def _model(family: str = "llama", tokenizer=None, **config) -> BiEncoderModel:
    tokenizer = tokenizer or tiny_tokenizer()
    return BiEncoderModel.from_backbone(tiny_backbone(family), tokenizer, **config)


def _ids(model: BiEncoderModel, *args, **kwargs) -> list[list[int]]:
    tokens = model.tokenize(*args, **kwargs)
    pairs = zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def _text(model: BiEncoderModel, *args, **kwargs) -> str:
    return model.tokenizer.decode(_ids(model, *args, **kwargs)[0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_encode_gives_each_text_its_own_embedding_in_order(family: str, side: str) -> None:
    model = _model(family, tiny_tokenizer(side), pooling="cls" if family == "bert" else "last_token")
    encoded = model.encode(TEXTS, batch_size=2)
    assert (encoded.shape, encoded.dtype, encoded.device.type) == ((5, 32), torch.float32, "cpu")
    torch.testing.assert_close(encoded, torch.cat([model.encode([text]) for text in TEXTS]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded.norm(dim=1), torch.ones(5))
    assert torch.pdist(encoded).min() > 1e-3


@pytest.mark.parametrize("most", [1, 20, 60, None])
def test_how_many_tokens_go_at_once_changes_no_embedding(most: int | None, monkeypatch) -> None:
    model, sizes = _model(), []
    whole = torch.cat([model.encode([text]) for text in TEXTS])
    monkeypatch.setattr("modeling_biencoder.prompting_biencoder.CPU_TOKENS", most)
    embed = model.embed
    model.embed = lambda **rows: sizes.append(rows["input_ids"].shape) or embed(**rows)
    torch.testing.assert_close(model.encode(TEXTS), whole, rtol=1e-4, atol=1e-5)
    assert sum(rows for rows, _ in sizes) == len(TEXTS)
    assert most is None or all(rows == 1 or rows * length <= most for rows, length in sizes)


def test_parts_of_so_many_tokens_padding_included() -> None:
    rows = [[0] * length for length in (3, 1, 5, 2, 2)]
    assert split_by_tokens(rows, 6) == [[2], [0, 3], [4, 1]]
    assert split_by_tokens(rows, 1) == [[2], [0], [3], [4], [1]]
    assert split_by_tokens(rows, None) == [[2, 0, 3, 4, 1]]
    assert split_by_tokens([], 6) == []


def test_encode_leaves_the_model_in_its_mode_and_uses_no_dropout() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone("bert", hidden_dropout_prob=0.5), tiny_tokenizer()).train()
    assert torch.equal(model.encode(TEXTS), model.encode(TEXTS))
    assert model.training


def test_no_texts_give_no_rows() -> None:
    model = _model(embedding_dims=[8, 32])
    assert model.encode([]).shape == (0, 32)
    assert model.encode([], truncate_dim=8).shape == (0, 8)


def test_an_empty_text_is_one_end_of_sequence_token() -> None:
    assert _ids(_model(), [""]) == [[1]]


def test_a_tokenizer_without_padding_token_encodes_alike() -> None:
    bare = tiny_tokenizer()
    bare.pad_token = None
    torch.testing.assert_close(_model(tokenizer=bare).encode(TEXTS), _model().encode(TEXTS))


def test_padding_literals() -> None:
    batch = pad_rows([[5, 6, 7], [8]], tiny_tokenizer())
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_prompts_by_role_and_task() -> None:
    model = _model(prompts=PROMPTS)
    assert _text(model, ["lantern"]) == "q: lantern"
    assert _text(model, ["lantern"], role="passage") == "p: lantern"
    assert _text(model, ["lantern"], task="summary") == '"lantern", in one word:</s>'
    assert _text(model, ["lantern"], role="passage", task="icl") == "lantern"
    assert (model.encode(["lantern"]) - model.encode(["lantern"], role="passage")).abs().max() > 1e-3


def test_a_suffixs_special_tokens_are_single_ids_at_the_end() -> None:
    assert _ids(_model(prompts=PROMPTS), ["lantern"], task="summary")[0][-1] == 1


@pytest.mark.parametrize("separate", [False, True])
def test_truncation_cuts_the_text_and_keeps_prompt_and_suffix(separate: bool) -> None:
    model = _model(prompts=PROMPTS, max_length=24, separate_prompts=separate)
    (ids,) = _ids(model, [TEXTS[2]], task="summary")
    text = model.tokenizer.decode(ids)
    assert len(ids) == 24
    assert text.startswith('"A query')
    assert text.endswith('", in one word:</s>')


def test_separate_prompts_are_tokenised_each_on_its_own() -> None:
    prompts = {"default": {"query": "the li", "query_suffix": "ds"}}
    tokenizer = tiny_tokenizer()
    parts = [tokenizer(part)["input_ids"] for part in ("the li", "brary rea", "ds")]
    (separate,) = _ids(_model(prompts=prompts, separate_prompts=True), ["brary rea"])
    (joint,) = _ids(_model(prompts=prompts), ["brary rea"])
    assert separate == [*parts[0], *parts[1], *parts[2]]
    assert joint == tokenizer("the library reads")["input_ids"] != separate


@pytest.mark.parametrize("append_eos", [False, True])
def test_append_eos_ends_every_text_with_it_once(append_eos: bool) -> None:
    model = _model(append_eos=append_eos, max_length=8)
    assert [ids[-1] == 1 for ids in _ids(model, ["lantern", TEXTS[2], "candle</s>"[:6]])] == [append_eos] * 3
    assert max(len(ids) for ids in _ids(model, TEXTS)) == 8
    assert _ids(model, [""]) == [[1]]


def test_special_tokens_of_the_tokenizer_stand_around_prompt_and_suffix() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    model = _model("bert", tokenizer, prompts={"default": {"query": "q: ", "query_suffix": " ?"}}, max_length=16)
    assert _text(model, ["lantern"]) == "<s>q: lantern ?</s>"
    (long,) = _ids(model, [TEXTS[2]])
    assert len(long) == 16
    assert model.tokenizer.decode(long).endswith(" ?</s>")
    model.config.append_eos = True  # it is there already
    assert _text(model, ["lantern"]) == "<s>q: lantern ?</s>"


def test_in_context_examples_stand_before_the_query() -> None:
    text = _text(_model(prompts=PROMPTS), ["who?"], task="icl", examples=[("where?", "here"), ("when?", "now")])
    head = "<instruct>Find the answer.\n<query>"
    assert text == (f"{head}where?\n<response>here\n\n{head}when?\n<response>now\n\n{head}who?\n<response>")


def test_truncated_widths_are_the_normalised_first_numbers() -> None:
    model = _model(embedding_dims=[8, 32])
    full, short = model.encode(TEXTS), model.encode(TEXTS, truncate_dim=8)
    torch.testing.assert_close(short, torch.nn.functional.normalize(full[:, :8], dim=-1))


def test_the_full_width_may_be_asked_for_where_narrower_ones_are_trained() -> None:
    model = _model(embedding_dims=[8])
    assert torch.equal(model.encode(TEXTS, truncate_dim=32), model.encode(TEXTS))


def test_similarity_is_cosine_or_dot_product() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [4.0, -3.0]])
    torch.testing.assert_close(_model().similarity(a, b), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(_model(normalize=False).similarity(a, b), torch.tensor([[50.0, 0.0]]))


def test_progress_bar_only_when_asked_for_or_after_a_while(capsys) -> None:
    model = _model()
    model.encode(TEXTS)
    model.encode(TEXTS, show_progress=False)
    assert "encode" not in capsys.readouterr().err
    model.encode(TEXTS, show_progress=True)
    assert "encode" in capsys.readouterr().err


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused_with_the_fix(number: float) -> None:
    model = _model(normalize=False)
    embed = model.embed
    model.embed = lambda **rows: embed(**rows).index_fill(1, torch.tensor([3]), number)
    with pytest.raises(ValueError, match=r"a text of \d+ tokens, 'candle'..., holds NaN or .* dtype=torch.float32"):
        model.encode(["candle"])


def test_any_sequence_of_texts_is_encoded_as_a_list_of_them_is() -> None:
    model = _model()
    expected = model.encode(TEXTS)
    for texts in (tuple(TEXTS), numpy.array(TEXTS), datasets.Dataset.from_dict({"text": TEXTS})["text"]):
        assert torch.equal(model.encode(texts), expected)
    assert model.encode(numpy.array([], dtype=str)).shape == (0, 32)


def test_similarity_of_two_precisions_is_in_the_finer_one() -> None:
    vectors = torch.randn(3, 32)
    found = _model().similarity(vectors.bfloat16(), vectors)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, _model().similarity(vectors.bfloat16().float(), vectors))


def test_a_pooling_over_more_tokens_than_int64_counts_is_over_all() -> None:
    texts = TEXTS[2:]
    embeddings = [_model(pooling="mean_last_k", pooling_k=2**63).encode(texts), _model(pooling="mean").encode(texts)]
    torch.testing.assert_close(*embeddings)
