"""What goes out to sentence-transformers gives the vectors of encode: with its own modules, or with ours."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from hub_cards import inspect
from modeling_biencoder import BiEncoderModel
from modeling_biencoder.sentence_encoder_biencoder import SentenceEncoder
from modeling_biencoder.sentence_transformers_biencoder import lower_cased
from tests.support.families import build
from tests.support.tiny import tiny_backbone, tiny_tokenizer

SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
TEXTS = ["the copper lantern", " Candle\n", "A query finds the passage that answers it. " * 4]
PROMPTS = {"default": {"query": "q: ", "passage": "p: "}, "code": {"query": "def "}}
DENSE = [
    {"in_features": 32, "out_features": 24, "bias": False, "activation": "Identity"},
    {"in_features": 24, "out_features": 16, "bias": True, "activation": "Tanh"},
]
AROUND = {
    "default": {"query": "<q> ", "query_suffix": "?", "passage_suffix": " </p>"},
    "code": {"query": "<q> ", "query_suffix": "!"},
    "odd": {"query": "a {text} b "},
}


def model_of(family: str = "llama", tokenizer=None, **config) -> BiEncoderModel:
    """Of the family, with dense layers of random weights where the configuration has any."""
    return BiEncoderModel.from_backbone(tiny_backbone(family), tokenizer or tiny_tokenizer(), **config)


def loaded(folder: Path, **settings) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", **settings)


def assert_equal(theirs: SentenceTransformer, ours: BiEncoderModel, texts=TEXTS, truncate_dim=None) -> None:
    """For both roles, by method and by the prompt's name, and for each task."""
    calls = {("query", None): [theirs.encode_query], ("passage", None): [theirs.encode_document]}
    for task in ours.config.prompts:
        for role in ("query", "passage"):
            names = [f"{task}-{role}"] if task != "default" else ["query"] if role == "query" else ["document", role]
            calls.setdefault((role, None if task == "default" else task), []).extend(
                lambda texts, name=name, **kwargs: theirs.encode(texts, prompt_name=name, **kwargs) for name in names
            )
    for (role, task), ways in calls.items():
        expected = ours.encode(texts, role=role, task=task, truncate_dim=truncate_dim)
        for encode in ways:
            torch.testing.assert_close(encode(texts, convert_to_tensor=True), expected, rtol=1e-6, atol=1e-6)
    assert theirs.similarity_fn_name == ours.config.similarity
    assert theirs.get_embedding_dimension() == (truncate_dim or ours.config.hidden_size)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"pooling": "last_token"}),
        ("gpt2", {"pooling": "last_token", "normalize": False}),
        ("qwen", {"pooling": "mean", "max_length": 16, "prompts": {}}),
        ("bert", {"pooling": "cls", "dense": DENSE}),
        ("opt", {"pooling": "mean", "dense": DENSE[:1], "normalize": False}),
    ],
)
def test_its_own_modules_where_they_say_all(family, config, tmp_path, caplog, capfd):
    model = model_of(family, **{"prompts": PROMPTS, **config})
    model.export_sentence_transformers(tmp_path)
    theirs = loaded(tmp_path)  # no code to trust
    assert_equal(theirs, model)
    assert not list(tmp_path.glob("*.py")) and not inspect(tmp_path).refusals
    said = caplog.text + "".join(capfd.readouterr())
    assert "pooler" not in said and "MISSING" not in said and "UNEXPECTED" not in said
    back = BiEncoderModel.from_backbone(tmp_path)
    assert_equal(theirs, back)
    assert (back.config.prompts.get("default"), back.config.max_length) == (
        model.config.prompts.get("default"),
        model.config.max_length,
    ) or not model.config.prompts


def test_a_width_without_normalisation_needs_no_module_of_ours(tmp_path):
    model = model_of(pooling="mean", normalize=False)
    model.export_sentence_transformers(tmp_path, truncate_dim=8)
    assert_equal(loaded(tmp_path), model, truncate_dim=8)


OURS = {
    "last_k": ("llama", {"pooling": "mean_last_k", "pooling_k": 3}),
    "eos": ("gpt2", {"append_eos": True, "max_length": 12}),
    "bidirectional": ("qwen", {"bidirectional": True, "pooling": "mean"}),
    "separate": ("mistral", {"separate_prompts": True, "prompts": PROMPTS, "max_length": 14}),
    "around": ("opt", {"prompts": AROUND, "pooling": "mean", "normalize": False, "max_length": 20}),
    "dense": ("bert", {"pooling": "mean_last_k", "dense": DENSE, "prompts": AROUND}),
    "width": ("llama", {"embedding_dims": [8, 32], "pooling": "mean", "prompts": PROMPTS}),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", OURS)
def test_our_module_where_it_has_none(case, tmp_path):
    family, config = OURS[case]
    model = model_of(family, tiny_tokenizer("left" if family == "qwen" else "right"), **config)
    width = 8 if case == "width" else None
    folder = tmp_path / f"export_of_{case}"  # transformers copies the code to a folder of this name, for all processes
    model.export_sentence_transformers(folder, truncate_dim=width)
    theirs = loaded(folder, trust_remote_code=True)
    assert type(theirs[0]).__module__.startswith("transformers_modules")
    assert_equal(theirs, model, [*TEXTS, ""], width)
    assert not inspect(folder).refusals
    again = BiEncoderModel.from_pretrained(folder)
    torch.testing.assert_close(again.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=1e-6)


def test_the_width_of_an_export_is_said_where_the_model_alone_is_loaded(tmp_path, caplog):
    model_of(embedding_dims=[8, 32], pooling="mean").export_sentence_transformers(tmp_path, truncate_dim=8)
    assert SentenceEncoder.load(str(tmp_path)).truncate_dim == 8 and "truncate_dim" not in caplog.text
    assert BiEncoderModel.from_pretrained(tmp_path).encode(TEXTS[:1]).shape == (1, 32)
    assert f"{str(tmp_path)!r} cuts its vectors to truncate_dim=8" in caplog.text


def test_every_saved_model_is_one_and_may_be_saved_by_it(tmp_path):
    model = model_of("bert", pooling="mean", prompts=PROMPTS)
    model.save_pretrained(tmp_path / "saved_by_us")
    theirs = loaded(tmp_path / "saved_by_us", trust_remote_code=True)
    theirs.prompts["more"] = "m: "
    theirs.max_seq_length = 12
    theirs.save_pretrained(str(tmp_path / "saved_by_them"))
    again = loaded(tmp_path / "saved_by_them", trust_remote_code=True)
    assert again.prompts["more"] == "m: " and again.max_seq_length == 12
    model.config.max_length = 12
    assert_equal(again, model)
    assert_equal(again, BiEncoderModel.from_pretrained(tmp_path / "saved_by_them"))
    with pytest.raises(ValueError, match="is a bi-encoder already: load it with"):
        BiEncoderModel.from_backbone(tmp_path / "saved_by_us")
    with pytest.raises(ValueError, match="is a bi-encoder already: load it with"):
        BiEncoderModel.from_backbone(theirs)


def test_examples_precision_and_fields_of_the_configuration_go_through(tmp_path):
    model = model_of(pooling="mean", prompts=AROUND)
    model.save_pretrained(tmp_path)
    examples = [("what lights the way", "a lantern"), ("and burns", "a candle")]
    theirs = loaded(tmp_path, trust_remote_code=True)
    found = theirs.encode_query(TEXTS, examples=examples, convert_to_tensor=True)
    torch.testing.assert_close(found, model.encode(TEXTS, examples=examples), rtol=1e-6, atol=1e-6)
    settings = {"model_kwargs": {"dtype": torch.bfloat16}, "config_kwargs": {"max_length": 24, "pooling": "cls"}}
    theirs = loaded(tmp_path, trust_remote_code=True, **settings)
    half = BiEncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16, max_length=24, pooling="cls")
    assert_equal(theirs, half)


BAD = {
    "examples were given for role='passage'": lambda st: st.encode_document(TEXTS, examples=[("a", "b")]),
    "must be a pair of strings": lambda st: st.encode_query(TEXTS, examples=[("a", 1)]),
    "must be a string, not tuple": lambda st: st.encode_query([("a", "b")]),
    "max_seq_length=5000 is longer": lambda st: setattr(st, "max_seq_length", 5000),
    "would write a pickle": lambda st: st[0].save("never", safe_serialization=False),
}


def test_what_our_module_does_not_take_is_named(tmp_path):
    model = model_of(pooling="mean", prompts=AROUND)
    model.save_pretrained(tmp_path)
    theirs = loaded(tmp_path, trust_remote_code=True)
    for said, call in BAD.items():
        with pytest.raises(ValueError, match=said):
            call(theirs)
    with pytest.raises(ValueError, match="backend='onnx': a bi-encoder of Lookback"):
        loaded(tmp_path, trust_remote_code=True, backend="onnx")
    with pytest.raises(ValueError, match=r"processor_kwargs=.* are for a tokenizer"):
        loaded(tmp_path, trust_remote_code=True, processor_kwargs={"padding_side": "left"})
    with pytest.raises(ValueError, match="truncate_dim=9 was not trained"):
        model_of(embedding_dims=[8]).export_sentence_transformers(tmp_path / "out", truncate_dim=9)
    assert not (tmp_path / "out").exists() and not Path("never").exists()


def cased_bert() -> BertTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "copper", "Copper", "lantern", "LANTERN"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, do_lower_case=False)


def words_with_a_normaliser() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({"<u>": 0, "<p>": 1, "the": 2, "copper": 3, "Copper": 4}, unk_token="<u>"))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizers.Whitespace(), normalizers.NFC()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<u>", pad_token="<p>")


@pytest.mark.parametrize("make", [cased_bert, words_with_a_normaliser])
def test_lower_case_goes_out_both_ways(make, tmp_path):
    text = ["the Copper LANTERN", "the copper lantern"]
    for ours, config in ((False, {"pooling": "mean"}), (True, {"pooling": "mean_last_k"})):
        model = model_of("bert", lower_cased(make()), **config)
        cased = model_of("bert", make(), **config).encode(text)
        assert (cased[0] - cased[1]).abs().max() > 1e-3
        torch.testing.assert_close(*model.encode(text), rtol=0, atol=0)
        folder = tmp_path / f"{make.__name__}_{config['pooling']}"
        model.export_sentence_transformers(folder)
        assert_equal(loaded(folder, trust_remote_code=ours), model, text)


def test_the_files_name_no_more_than_they_need(tmp_path):
    model_of(prompts=PROMPTS).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "modules.json").read_text()) == [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_encoder_biencoder.SentenceEncoder"}
    ]
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["model.safetensors"]


PROMPTED = {"asked": {"query": "NEW: ", "document": "DOC: "}, "half": {"query": "NEW: "}, "none": {"document": ""}}


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", ["none", *PROMPTED])
def test_what_sentence_transformers_saves_is_one_model_however_it_is_loaded(case, tmp_path):
    """Prompts and a width that were given to it, not to us."""
    model = model_of("qwen", pooling="last_token", prompts=AROUND)
    model.save_pretrained(tmp_path / "ours")
    theirs = loaded(tmp_path / "ours", trust_remote_code=True, truncate_dim=8, prompts=PROMPTED.get(case))
    theirs.save_pretrained(str(tmp_path / case))
    again = loaded(tmp_path / case, trust_remote_code=True)
    ours = BiEncoderModel.from_pretrained(tmp_path / case)
    for role, name in (("query", "encode_query"), ("passage", "encode_document")):
        expected = getattr(theirs, name)(TEXTS, convert_to_tensor=True)
        torch.testing.assert_close(getattr(again, name)(TEXTS, convert_to_tensor=True), expected)
        torch.testing.assert_close(ours.encode(TEXTS, role=role)[:, :8], expected)
    assert model.config.prompts == AROUND
    with pytest.raises(ValueError, match="output_value='token_embeddings': a bi-encoder"):
        again.encode(TEXTS, output_value="token_embeddings")


@pytest.mark.parametrize("family", ["llara", "srlm"])
def test_another_model_of_ours_is_no_backbone(family, tmp_path):
    model = build(family)
    model.save_pretrained(tmp_path)
    for source in (model, tmp_path):
        with pytest.raises(ValueError, match=r"the backbone is a (LLaRA model|self-retrieval LM)"):
            BiEncoderModel.from_backbone(source)
