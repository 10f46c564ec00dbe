"""A sentence-transformers model goes in as it is: its vectors, in every place that takes a model."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from hub_cards import inspect
from modeling_biencoder import BiEncoderModel
from modeling_biencoder.sentence_modules_biencoder import prompts_by_task
from modeling_biencoder.sentence_settings_biencoder import flat_prompts
from modeling_srlm import SelfRetrievalLM
from tests.support.sentence_folders import saved
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.models.load import load_biencoder

sentence_transformers = pytest.importorskip("sentence_transformers")
TEXTS = ["the copper lantern", "  Candle  \n", "A query finds the passage that answers it. " * 9]


KINDS = [
    {"pooling": "cls", "normalize": False, "similarity_fn_name": "dot"},
    {"family": "llama", "pooling": "last_token", "path": "0_Transformer"},
    {"lower": True, "length": None},
    {"prompts": {"query": "q: ", "passage": "p: ", "STS": "similar: "}, "passage": "passage"},
    {"prompts": {"plain": "text: ", "query": "q: "}, "default_prompt_name": "plain", "passage": "plain"},
    {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"},
    {"dense": [(48, False, "Identity"), (20, True, "Tanh")]},
    {"family": "qwen", "dense": [(16, True, "ReLU")], "normalize": False, "prompts": {"document": "doc: "}},
]


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", KINDS, ids=[" ".join(kind) for kind in KINDS])
def test_the_vectors_are_those_of_sentence_transformers(kind, tmp_path):
    folder = saved(tmp_path / "st", **kind)
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")
    names = {role: kind.get(role, role if role == "query" else "document") for role in ("query", "passage")}
    vectors = {role: theirs.encode(TEXTS, prompt_name=name) for role, name in names.items()}
    lm, tokenizer = tiny_backbone("gpt2", lm_head=True), tiny_tokenizer()
    sizes = {"context_window_size": 32, "chunk_size": 8}
    inner = [SelfRetrievalLM.from_components(lm, tokenizer, source, **sizes).retriever for source in (folder, theirs)]
    BiEncoderModel.from_backbone(folder).save_pretrained(tmp_path / "ours")
    models = [
        BiEncoderModel.from_backbone(folder).eval(), BiEncoderModel.from_backbone(theirs).eval(),
        load_biencoder(folder), BiEncoderModel.from_pretrained(tmp_path / "ours"), *inner,
    ]  # fmt: skip
    for model in models:
        for role, expected in vectors.items():
            torch.testing.assert_close(model.encode(TEXTS, role=role), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    if "STS" in kind.get("prompts", {}):
        expected = torch.tensor(theirs.encode(TEXTS, prompt_name="STS"))
        torch.testing.assert_close(models[0].encode(TEXTS, task="STS"), expected, rtol=1e-6, atol=1e-6)
    assert models[0].config.similarity == theirs.similarity_fn_name
    assert not inspect(tmp_path / "ours").refusals


def test_a_tokenizer_that_the_caller_gave_stays_as_it_is(tmp_path):
    folder, tokenizer = saved(tmp_path, lower=True, length=None), tiny_tokenizer()
    before = tokenizer("ABC abc")["input_ids"]
    model = BiEncoderModel.from_backbone(folder, tokenizer)
    assert tokenizer("ABC abc")["input_ids"] == before
    assert model.tokenizer("ABC abc")["input_ids"] == tokenizer("abc abc")["input_ids"] != before


def test_a_backbone_in_a_folder_of_its_own_trains(tmp_path):
    args = BiEncoderTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, train_group_size=1)
    for path in ("", "0_Transformer"):
        folder = saved(tmp_path / f"st{path}", path=path)
        trainer = BiEncoderTrainer(folder, args, [{"query": "a", "pos": ["b"]}] * 2)
        assert (trainer.model.config.pooling, trainer.model.config.max_length) == ("mean", 24)
        with pytest.raises(ValueError, match="target_modules names 'nonsense'"):
            BiEncoderTrainer(folder, args, peft_config=LoraConfig(target_modules=["nonsense"]))


def test_what_the_caller_says_counts(tmp_path):
    folder = saved(tmp_path, prompts={"query": "q: "})
    model = BiEncoderModel.from_backbone(folder, pooling="cls", max_length=9, prompts={})
    assert (model.config.pooling, model.config.max_length, model.config.prompts) == ("cls", 9, {})
    with pytest.raises(ValueError, match=r"--pooling='mean' .* sentence-transformers model, which brings its own"):
        load_biencoder(folder, pooling="mean")


@pytest.mark.parametrize("field", ["similarity", "max_length", "prompts", "pooling"])
def test_none_leaves_a_field_to_the_model(tmp_path, field):
    folder = saved(tmp_path, prompts={"query": "q: "}, normalize=False, similarity_fn_name="cosine", length=40)
    given, own = BiEncoderModel.from_backbone(folder, **{field: None}), BiEncoderModel.from_backbone(folder)
    assert given.config.to_dict() == own.config.to_dict() and own.config.similarity == "cosine"


def test_a_width_that_they_cut_to_is_said(tmp_path, caplog):
    folder = saved(tmp_path)
    change(tmp_path, "config_sentence_transformers.json", truncate_dim=7)
    cut = sentence_transformers.SentenceTransformer(folder, device="cpu", truncate_dim=9)
    for source, said in ((folder, f"{folder!r} cuts its vectors to truncate_dim=7"), (cut, "truncate_dim=9")):
        assert BiEncoderModel.from_backbone(source).encode(TEXTS[:1]).shape == (1, 32)
        assert said in caplog.text


def test_dense_layers_that_are_given_anew_have_the_models_weights_or_are_refused(tmp_path):
    folder, layer = saved(tmp_path, dense=[(16, True, "Tanh")]), {"in_features": 32, "out_features": 16}
    expected = BiEncoderModel.from_backbone(folder).encode(TEXTS)
    again = BiEncoderModel.from_backbone(folder, dense=[{**layer, "activation": "Tanh"}])
    torch.testing.assert_close(again.encode(TEXTS), expected)
    with pytest.raises(ValueError, match=r"the model has trained layers .*: leave dense out"):
        BiEncoderModel.from_backbone(folder, dense=[layer])
    assert BiEncoderModel.from_backbone(folder, dense=None).encode(TEXTS).shape == (3, 32)


def test_the_temperature_is_that_of_their_losses_where_nothing_else_is_said(tmp_path):
    folder = saved(tmp_path)
    assert BiEncoderModel.from_backbone(folder).config.temperature == 0.05
    assert (
        BiEncoderModel.from_backbone(
            sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        ).config.temperature
        == 0.05
    )
    assert BiEncoderModel.from_backbone(folder, temperature=0.01).config.temperature == 0.01
    assert BiEncoderModel.from_backbone(folder, preset="llm-embedder").config.temperature == 0.01
    BiEncoderModel.from_backbone(folder).save_pretrained(tmp_path / "ours")
    assert BiEncoderModel.from_pretrained(tmp_path / "ours").config.temperature == 0.05


def test_the_length_is_never_beyond_the_positions(tmp_path):
    assert (
        BiEncoderModel.from_backbone(saved(tmp_path, length=10**6)).config.max_length
        == tiny_backbone("bert").config.max_position_embeddings
    )


def change(folder: Path, name: str, **fields) -> None:
    """Put fields into a file of JSON."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **fields}))


def module(folder: Path, number: int, **fields) -> None:
    """Put fields into a module's entry in modules.json."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[number].update(fields)
    (folder / "modules.json").write_text(json.dumps(modules))


BAD = {
    "pools by max": lambda folder: change(folder, "1_Pooling/config.json", pooling_mode="max"),
    "pools by mean and cls": lambda folder: change(folder, "1_Pooling/config.json", pooling_mode=["mean", "cls"]),
    "compares by 'euclidean'": lambda folder: change(
        folder, "config_sentence_transformers.json", similarity_fn_name="euclidean"
    ),
    "include_prompt=False": lambda folder: (
        change(folder, "1_Pooling/config.json", include_prompt=False),
        change(folder, "config_sentence_transformers.json", prompts={"query": "q: "}),
    ),
    "Transformer, Pooling, CNN": lambda folder: module(folder, 2, type="sentence_transformers.models.CNN"),
    "code of its own": lambda folder: module(folder, 2, type="custom_st.MyModule"),
    "outside of its folder": lambda folder: module(folder, 1, path="../1_Pooling"),
    "has no 1_Pooling/config.json": lambda folder: (folder / "1_Pooling/config.json").unlink(),
    "but no modules.json": lambda folder: (folder / "modules.json").unlink(),
    "modules.json of .* is no JSON": lambda folder: (folder / "modules.json").write_text("[{"),
    "is no list of modules": lambda folder: (folder / "modules.json").write_text("{}"),
    "is no list of modules: ask": lambda folder: (folder / "modules.json").write_text("[]"),
    "transformer_task='fill-mask'": lambda folder: change(
        folder, "sentence_bert_config.json", transformer_task="fill-mask"
    ),
    "may change its states": lambda folder: change(folder, "sentence_bert_config.json", config_args={"is_decoder": 1}),
    "has no 2_Dense/model.safetensors": lambda folder: (folder / "2_Dense/model.safetensors").unlink(),
    "Dense layer": lambda folder: change(folder, "2_Dense/config.json", use_residual=True),
}


@pytest.mark.parametrize("said", BAD)
def test_what_cannot_be_taken_is_named(said, tmp_path):
    folder = saved(tmp_path, dense=[(8, True, "Tanh")])
    BAD[said](tmp_path)
    with pytest.raises(ValueError, match=said):
        BiEncoderModel.from_backbone(folder)
    with pytest.raises(ValueError, match=said):
        SelfRetrievalLM.from_components(
            tiny_backbone("gpt2", lm_head=True), tiny_tokenizer(), folder, context_window_size=32, chunk_size=8
        )


def test_dense_layers_that_ask_for_more_than_the_weights_hold_are_refused_before_loading(tmp_path):
    BiEncoderModel.from_backbone(saved(tmp_path / "st", dense=[(8, True, "Tanh")])).save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    config["dense"][0]["out_features"] = 10**8
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    assert any("dense 0 out_features" in str(finding) for finding in inspect(tmp_path / "ours").refusals)


def test_a_plain_backbone_is_told_what_it_gets_once(tmp_path, caplog):
    tiny_backbone("bert", lm_head=False).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for _ in range(2):
        BiEncoderModel.from_backbone(tmp_path)
    assert caplog.text.count("says nothing of pooling") <= 1


def test_names_of_prompts_are_those_of_the_roles_whatever_tasks_are_called():
    flat = flat_prompts(
        {
            "default": {"query": "q: "},
            "STS": {"query": "s: "},
            "STS-query": {"query": "t: "},
            "query": {"query": "u: "},
        }
    )
    found = {name: flat[name] for name in ("query", "STS", "STS-query", "STS-query-query", "query-query")}
    assert list(found.values()) == ["q: ", "s: ", "s: ", "t: ", "u: "]
    assert prompts_by_task(flat_prompts({"query": {"query": "u: "}}))["default"]["query"] == ""


def test_names_of_prompts():
    assert prompts_by_task({}) == {} == prompts_by_task({"query": "", "document": ""})
    found = prompts_by_task({"corpus": "c: ", "passage": "p: "})
    assert found == {"default": {"query": "", "passage": "p: "}}


def test_what_the_caller_decides_is_not_refused(tmp_path):
    folder = Path(saved(tmp_path))
    change(folder, "config_sentence_transformers.json", similarity_fn_name="euclidean")
    change(folder, "1_Pooling/config.json", pooling_mode="max", include_prompt=False)
    given = {"similarity": "dot", "pooling": "mean"}
    config = BiEncoderModel.from_backbone(folder, **given).config
    assert (config.similarity, config.pooling) == ("dot", "mean")
    with pytest.raises(ValueError, match="compares by 'euclidean'"):
        BiEncoderModel.from_backbone(folder, pooling="mean")
    with pytest.raises(ValueError, match="include_prompt=False"):
        BiEncoderModel.from_backbone(folder, prompts={"default": {"query": "q: "}}, **given)


@pytest.mark.parametrize("path", ["", "0_Transformer"])
def test_commands_take_another_pooling_where_its_own_is_refused(path, tmp_path):
    folder = saved(tmp_path, path=path)
    with pytest.raises(
        ValueError, match=r"'cls' is for a plain backbone, and .* sentence-transformers model, which brings"
    ):
        load_biencoder(folder, pooling="cls")
    change(Path(folder), "1_Pooling/config.json", pooling_mode="max")
    with pytest.raises(ValueError, match=r"pools by max.*as a command --pooling"):
        load_biencoder(folder)
    assert load_biencoder(folder, pooling="cls", check=lambda config: None).config.pooling == "cls"


def test_what_a_refusal_advises_is_for_commands_too(tmp_path):
    folder = saved(tmp_path)
    change(tmp_path, "1_Pooling/config.json", include_prompt=False)
    settings = {"prompts": {"query": "q: "}, "similarity_fn_name": "euclidean"}
    change(tmp_path, "config_sentence_transformers.json", **settings)
    for name, value in {"prompts": {}, "similarity_fn_name": "dot"}.items():
        with pytest.raises(ValueError, match=rf"for a command too, .*{name}.* the config_sentence_transformers\.json"):
            load_biencoder(folder)
        change(tmp_path, "config_sentence_transformers.json", **{name: value})
    assert load_biencoder(folder).config.similarity == "dot"
