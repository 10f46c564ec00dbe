"""Models whose parts are on several devices or on the disk, or in several precisions, are the same models."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from packaging.version import Version
from transformers.quantizers import HfQuantizer, auto
from transformers.utils.quantization_config import QuantizationConfigMixin

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.families import build
from tests.support.srlm import build as build_with_prompts
from tests.support.tiny import TEXT, random_ids, tiny_backbone, tiny_tokenizer
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments
from trainers.demo.fresh_process import run_without_lookback

FAMILIES = ("biencoder", "llara", "srlm")
# Before that accelerate refuses a model, any model, of which nothing stays in memory.
all_on_disk = pytest.mark.skipif(
    Version(version("accelerate")) < Version("1.15"), reason="accelerate 1.15 is the first to take all from the disk"
)
# The part whose embeddings are looked up -> the device of each part; the rest is on the disk.
OFFLOADED: dict[str, dict[str, Any]] = {
    "all": {"device_map": {"": "disk"}},
    "embeddings": {
        "device_map": {
            "srlm": {
                "language_model.model.embed_tokens": "disk", "language_model.model.layers": "cpu",
                "language_model.model.norm": "cpu", "language_model.model.rotary_emb": "cpu",
                "language_model.lm_head": "disk", "retriever": "disk",
            },
            "llara": {
                "backbone.model.embed_tokens": "disk", "backbone.model.layers": "cpu", "backbone.model.norm": "cpu",
                "backbone.model.rotary_emb": "cpu", "backbone.lm_head": "disk",
            },
            "biencoder": {
                "backbone.embed_tokens": "disk", "backbone.layers": "cpu", "backbone.norm": "disk",
                "backbone.rotary_emb": "cpu",
            },
        }
    },
    "auto": {"device_map": "auto", "max_memory": {"cpu": 120_000}},
}  # fmt: skip


def offloaded(model: Any, family: str, where: str, folder: Path) -> Any:
    """The same model, loaded with parts of it on the disk."""
    model.save_pretrained(folder / "model")
    keywords = dict(OFFLOADED[where])
    if where == "embeddings":
        keywords["device_map"] = keywords["device_map"][family]
    return type(model).from_pretrained(folder / "model", offload_folder=folder / "offloaded", **keywords)


def llara_rows(model: LlaraForPreTraining) -> dict[str, torch.Tensor]:
    prompts = [*model.config.summarize_prompt_ids, *model.config.predict_prompt_ids]
    ids = torch.cat([random_ids(2, 9), torch.tensor([prompts] * 2)], dim=1)
    labels = ids.clone()
    labels[:, 9:] = -100
    return {"input_ids": ids, "labels": labels, "output_summarize_ids": ids[:, :9], "output_predict_ids": ids[:, :9]}


def biencoder_outputs(model: BiEncoderModel) -> list[Any]:
    tokens = model.tokenize(["copper lantern", TEXT])
    output = model(query=model.tokenize(["lantern"]), passage=tokens)
    return [model.encode([TEXT, "a"]), model.embed(**tokens), output.loss, output.scores]


def llara_outputs(model: LlaraForPreTraining) -> list[Any]:
    rows = llara_rows(model)
    output = model(**rows, output_logits=True)
    new = model.generate(rows["input_ids"][:, :9], max_new_tokens=5, do_sample=False)
    return [output.loss, output.logits, output.bow_predict_loss, new]


def srlm_outputs(model: SelfRetrievalLM) -> list[Any]:
    found: list[Any] = []
    for method in ("bm25", "self", "dense"):
        model.config.retrieval_method = method
        ids = random_ids(2, 500)
        mask = torch.ones_like(ids)
        mask[1, 400:] = 0
        labels = ids.where(mask.bool(), -100)
        output = model(ids, mask, labels, output_logits=True)
        found += [output.loss, output.logits, output.retrieved_indices, model(ids, mask).logits]
        found.append(model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False))
        found.append(torch.tensor(model.compute_perplexity([{"input_ids": ids, "labels": ids}], show_progress=False)))
    found += [model.score_candidates(ids[:1], labels=labels[:1]), model.retriever.encode([TEXT, "a"])]
    found.append(model.score_continuations([TEXT, "a"], ["lantern", "b"]))
    model.config.add_sep, model.config.add_bos = [5], True
    return [*found, model(ids, mask, labels).loss]


OUTPUTS: dict[str, Callable[[Any], list[Any]]] = {
    "biencoder": biencoder_outputs, "llara": llara_outputs, "srlm": srlm_outputs,
}  # fmt: skip


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "where", ["embeddings", *(pytest.param(name, marks=[all_on_disk, pytest.mark.slow]) for name in ("all", "auto"))]
)
@torch.no_grad()
def test_offloaded_weights_change_nothing(family, where, tmp_path):
    model = build(family)
    loaded = offloaded(model, family, where, tmp_path)
    assert loaded.device.type == "cpu" and any(weight.device.type == "meta" for weight in loaded.parameters())
    for found, wanted in zip(OUTPUTS[family](loaded), OUTPUTS[family](model.eval()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "retriever"),
    [
        pytest.param("gpt2", "bert", marks=[all_on_disk, pytest.mark.slow]),
        pytest.param("opt", "gpt2", marks=[all_on_disk, pytest.mark.slow]),
        pytest.param("gemma", "qwen", marks=pytest.mark.slow),
    ],
)  # fmt: skip
@torch.no_grad()
def test_other_backbones_offloaded_by_memory(backbone, retriever, tmp_path):
    """Gemma's embeddings are tied, GPT-2's and OPT's as well; OPT and BERT count positions in a way of their own."""
    model = build_with_prompts(backbone, retriever, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "model")
    loaded = SelfRetrievalLM.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": 200_000}, offload_folder=tmp_path / "offloaded"
    )
    assert any(weight.device.type == "meta" for weight in loaded.parameters())
    for found, wanted in zip(srlm_outputs(loaded), srlm_outputs(model), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@all_on_disk
@torch.no_grad()
def test_components_that_are_offloaded(tmp_path):
    """A backbone that was loaded with a device map: accelerate's hooks are inside, and none is around our model."""
    settings = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offloaded"}
    tiny_backbone().save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    build("biencoder").save_pretrained(tmp_path / "biencoder")
    ids, rows = random_ids(1, 300), random_ids(2, 30)

    def build_all(**loading: Any) -> list[torch.Tensor]:
        lm = SelfRetrievalLM.from_components(
            tmp_path / "lm", retriever=BiEncoderModel.from_pretrained(tmp_path / "biencoder", **loading),
            model_kwargs=dict(loading), context_window_size=64, chunk_size=16,
        )  # fmt: skip
        biencoder = BiEncoderModel.from_backbone(tmp_path / "lm", **loading)
        prompts = {"summarize_prompt_ids": [7, 8], "predict_prompt_ids": [9, 10]}
        llara = LlaraForPreTraining.from_backbone(
            tmp_path / "lm", num_summary_tokens=1, num_predict_tokens=1, **prompts, **loading
        )
        return [lm(ids, labels=ids).loss, biencoder.embed(rows), llara(rows, labels=rows).loss]

    for found, wanted in zip(build_all(**settings), build_all(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="call from_backbone without device_map"):
        LlaraForPreTraining.from_backbone(tmp_path / "lm", **settings)


def precisions(model: torch.nn.Module) -> dict[str, torch.dtype]:
    return {name: weight.dtype for name, weight in model.named_parameters()}


def mixed(family: str, lm: torch.dtype = torch.bfloat16, rest: torch.dtype = torch.float32) -> Any:
    """A model with the retriever (`srlm`), or the norms, in a precision of their own."""
    model = build(family).to(lm)
    parts = [model.retriever] if family == "srlm" else [m for n, m in model.named_modules() if n.endswith("norm")]
    for part in parts:
        part.to(rest)
    assert len(set(precisions(model).values())) == 2
    return model


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("lm", "rest"),
    quick_first([(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)]),
)
@pytest.mark.parametrize("loading", [{}, {"dtype": "auto"}, {"dtype": None}, {"device_map": "cpu"}])
def test_each_part_keeps_its_precision(family, lm, rest, loading, tmp_path):
    model = mixed(family, lm, rest)
    for number in range(2):  # and when what was loaded is saved again
        model.save_pretrained(tmp_path / str(number), max_shard_size=60_000 if number else "50GB")
        loaded = type(model).from_pretrained(tmp_path / str(number), **loading)
        assert precisions(loaded) == precisions(model)
        assert all(weight.equal(loaded.state_dict()[name]) for name, weight in model.state_dict().items())
        model = loaded
    if family == "srlm":
        assert (loaded.config.text_config.dtype, loaded.config.retriever_config.dtype) == (lm, rest)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, "float16", torch.bfloat16])
def test_a_given_precision_is_that_of_all_parts(family, dtype, tmp_path):
    mixed(family).save_pretrained(tmp_path)
    for keyword in ("dtype", "torch_dtype"):
        loaded = type(build(family)).from_pretrained(tmp_path, **{keyword: dtype})
        assert {str(kind) for kind in precisions(loaded).values()} == {f"torch.{str(dtype).removeprefix('torch.')}"}


def test_components_are_loaded_in_the_precision_given(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    build("biencoder").save_pretrained(tmp_path / "biencoder")
    settings = {"context_window_size": 64, "chunk_size": 16, "retriever": tmp_path / "biencoder"}
    for given, lm, retriever in (
        ({}, torch.float32, torch.float32),
        ({"dtype": torch.bfloat16}, torch.bfloat16, torch.bfloat16),
        ({"dtype": "bfloat16", "retriever_kwargs": {"dtype": "float16"}}, torch.bfloat16, torch.float16),
        ({"model_kwargs": {"dtype": "bfloat16"}}, torch.bfloat16, torch.float32),
    ):
        model = SelfRetrievalLM.from_components(tmp_path / "lm", **settings, **given)
        assert (model.language_model.dtype, model.retriever.backbone.dtype) == (lm, retriever), given
    args = SelfRetrievalTrainingArguments(str(tmp_path / "run"), document_length=96, target_size=32, report_to="none")
    trainer = SelfRetrievalTrainer(
        str(tmp_path / "lm"), args, [{"text": TEXT * 9}], model_kwargs={"dtype": torch.bfloat16, **settings}
    )
    assert set(precisions(trainer.model).values()) == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"dtype=torch.bfloat16 is for components to load.*use \.to"):
        SelfRetrievalLM.from_components(model.language_model, dtype=torch.bfloat16, retrieval_method="no")


def test_learned_weights_stay_exact(tmp_path):
    """Of LLaRA's losses: in float32 beside a backbone in half precision, also where the caller asks for that."""
    prompts = {"summarize_prompt_ids": [7, 8], "predict_prompt_ids": [9, 10], "num_summary_tokens": 1}
    model = LlaraForPreTraining.from_backbone(
        tiny_backbone().to(torch.bfloat16), num_predict_tokens=1, loss_weighting="uncertainty", **prompts
    )
    model.loss_weighting.float()
    model.save_pretrained(tmp_path)
    for loading in ({}, {"dtype": torch.bfloat16}):
        loaded = LlaraForPreTraining.from_pretrained(tmp_path, **loading)
        assert loaded.loss_weighting.log_variances.dtype == torch.float32
        assert loaded.backbone.dtype == torch.bfloat16


def test_one_precision_in_the_files_is_what_the_configuration_says(tmp_path):
    """As in transformers: whoever edits `dtype` in config.json means all weights."""
    build("srlm").save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"float32"', '"bfloat16"')
    (tmp_path / "config.json").write_text(config)
    assert set(precisions(SelfRetrievalLM.from_pretrained(tmp_path)).values()) == {torch.bfloat16}


class AsItIs(HfQuantizer):
    """A quantiser that has nothing to do."""

    is_serializable = is_trainable = None


class AsItIsConfig(QuantizationConfigMixin):
    def __init__(self, quant_method: str) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]


def test_what_is_not_quantised_keeps_its_precision(tmp_path, monkeypatch):
    monkeypatch.setitem(auto.AUTO_QUANTIZER_MAPPING, "as_it_is", AsItIs)
    monkeypatch.setitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "as_it_is", AsItIsConfig)
    dense = [{"in_features": 32, "out_features": 8}]
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), dense=dense)
    model.backbone.to(torch.bfloat16)
    model.config.quantization_config = {"quant_method": "as_it_is"}
    model.save_pretrained(tmp_path)
    loaded = BiEncoderModel.from_pretrained(tmp_path)
    assert precisions(loaded) == precisions(model) and {*precisions(model).values()} == {torch.bfloat16, torch.float32}
    assert all(weight.equal(loaded.state_dict()[name]) for name, weight in model.state_dict().items())


@all_on_disk
@torch.no_grad()
def test_precisions_on_the_disk(tmp_path):
    loaded = offloaded(mixed("srlm"), "srlm", "all", tmp_path)
    model = SelfRetrievalLM.from_pretrained(tmp_path / "model")
    ids = random_ids(1, 300)
    torch.testing.assert_close(loaded(ids, labels=ids).loss, model(ids, labels=ids).loss, rtol=0, atol=1e-6)
    assert precisions(loaded) == precisions(model)
    torch.testing.assert_close(loaded.retriever.encode([TEXT]), model.retriever.encode([TEXT]), rtol=0, atol=1e-6)


SCRIPT = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype="auto")
print(model.language_model.dtype, model.retriever.backbone.dtype)
print(model.retriever.encode(["copper lantern"])[0, :3].tolist())
model.save_pretrained(sys.argv[2])
one = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.bfloat16)
print(one.language_model.dtype, one.retriever.backbone.dtype)
disk = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, device_map={"": "disk"}, offload_folder=sys.argv[2] + "/offloaded"
)
print(disk.device, disk.retriever.encode(["copper lantern"])[0, :3].tolist())
"""


@pytest.mark.slow
def test_the_code_that_travels(tmp_path):
    """In a fresh process, far from the checkout: precisions, offloading, and the retriever's tokenizer."""
    mixed("srlm").save_pretrained(tmp_path / "model")
    model = SelfRetrievalLM.from_pretrained(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    folders = (tmp_path / "model", tmp_path / "again")
    printed = run_without_lookback(SCRIPT, *folders, folder=tmp_path / "elsewhere")
    vector = str(model.retriever.encode(["copper lantern"])[0, :3].tolist())
    assert printed.splitlines() == [
        "torch.bfloat16 torch.float32", vector, "torch.bfloat16 torch.bfloat16", f"cpu {vector}",
    ]  # fmt: skip
    assert precisions(SelfRetrievalLM.from_pretrained(tmp_path / "again")) == precisions(model)


def test_weights_that_are_given_keep_their_precisions():
    model = mixed("srlm")
    loaded = SelfRetrievalLM.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert precisions(loaded) == precisions(model)


@pytest.mark.parametrize("family", quick_first(FAMILIES))
@torch.no_grad()
def test_a_model_that_accelerate_offloads(family, tmp_path):
    wanted, model = OUTPUTS[family](build(family).eval()), build(family).eval()
    disk_offload(model, tmp_path)
    assert model.device.type == "cpu" and all(weight.device.type == "meta" for weight in model.parameters())
    for found, expected in zip(OUTPUTS[family](model), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_empty_weights_are_nowhere():
    """A model on the meta device that nobody dispatched says so."""
    with torch.device("meta"):
        model = BiEncoderModel(build("biencoder").config)
    assert model.device.type == "meta"
    with pytest.raises(ValueError, match="input_ids is on cpu, the model on meta"):
        model.embed(random_ids(1, 5))


@all_on_disk
def test_a_part_of_an_offloaded_model_is_not_written_alone(tmp_path):
    """The whole model is: transformers brings its weights from the disk."""
    for family, write in (("biencoder", "export_sentence_transformers"), ("llara", "save_backbone")):
        model = build(family)
        loaded = offloaded(model, family, "all", tmp_path / family)
        with pytest.raises(ValueError, match="load the model without device_map"):
            getattr(loaded, write)(tmp_path / family / "part")
        assert not (tmp_path / family / "part").exists()
        loaded.save_pretrained(tmp_path / family / "whole")
        again = type(model).from_pretrained(tmp_path / family / "whole").state_dict()
        assert all(weight.equal(again[name]) for name, weight in model.state_dict().items())
