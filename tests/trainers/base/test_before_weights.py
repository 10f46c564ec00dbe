"""What does not fit a model is said before its weights are read: here they are not even there."""

import json
from pathlib import Path

import pytest
from peft import (
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    TrainableTokensConfig,
)

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.families import build
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.commands import finetune, pretrain, train_lm
from trainers.models.kind import config_of
from trainers.models.weightless import build_weightless

TRAINERS = {
    "biencoder": (BiEncoderTrainer, BiEncoderTrainingArguments, PAIRS),
    "llara": (LlaraTrainer, LlaraTrainingArguments, PASSAGES),
    "srlm": (SelfRetrievalTrainer, SelfRetrievalTrainingArguments, [{"text": "one two three four five six " * 9}]),
}
SIZES = {"srlm": {"context_window_size": 32, "chunk_size": 8}}
NO_WEIGHTS = "no file named model.safetensors"


def without_weights(folder, family=None, backbone="llama", **config):
    """A folder of a backbone, or of a family's model, as it is but for the weights."""
    model = build(family) if family else tiny_backbone(backbone, **config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    for weights in folder.rglob("model.safetensors"):
        weights.unlink()
    return str(folder)


def begin(family, source, folder, peft_config=None, model_kwargs=None, **settings):
    trainer, kind, rows = TRAINERS[family]
    own = {} if "lookback" in (Path(source) / "config.json").read_text() else SIZES.get(family, {})
    given = {**own, **(model_kwargs or {})}
    trainer(source, arguments(kind, folder / "run", **settings), rows, peft_config=peft_config, model_kwargs=given)


@pytest.fixture(params=TRAINERS)
def family(request):
    return request.param


@pytest.fixture(params=["backbone", "repo"])
def source(request, family, tmp_path):
    return without_weights(tmp_path / "model", family if request.param == "repo" else None)


BAD_ADAPTERS = [
    (LoraConfig(target_modules=["q_prj"]), "target_modules names 'q_prj'.*did you mean 'q_proj'"),
    (LoraConfig(target_modules=["c_attn", "q_prj"]), "target_modules names 'c_attn'"),
    (LoraConfig(target_modules=r".*\.attn\.q_proj"), r"target_modules='\.\*\\\\\.attn.* fits none"),
    (LoraConfig(modules_to_save=["nonsense"]), "modules_to_save names 'nonsense'"),
    (LoraConfig(target_modules=["q_proj"], layers_to_transform=[7]), "layers_to_transform"),
    (LoraConfig(target_modules=["input_layernorm"]), "peft cannot put this LoraConfig on the model|not supported"),
    (LoraConfig(target_modules=["q_proj"], trainable_token_indices=[10**6]), "trainable_token_indices"),
    (LoHaConfig(target_modules=["nonsense"]), "target_modules names 'nonsense'"),
]


@pytest.mark.cases(4)
@pytest.mark.parametrize(("adapter", "message"), BAD_ADAPTERS)
def test_an_adapter_that_does_not_fit(family, source, tmp_path, adapter, message):
    with pytest.raises(ValueError, match=message):
        begin(family, source, tmp_path, adapter)
    assert not (tmp_path / "run").exists()


GOOD_ADAPTERS = [
    None, LoraConfig(), LoraConfig(target_modules=["q_proj", "c_attn"]),
    LoraConfig(target_modules=["q_proj", "mlp.up_proj"], use_dora=True),
    LoraConfig(target_modules=r".*\.self_attn\.[qv]_proj"), LoraConfig(init_lora_weights="pissa"),
    LoraConfig(init_lora_weights="olora"), LoraConfig(modules_to_save=["norm"]),
    IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    LoHaConfig(target_modules=["q_proj"]), LoKrConfig(target_modules=["q_proj"]),
    OFTConfig(target_modules=["q_proj"], r=4, oft_block_size=0), BOFTConfig(target_modules=["q_proj"]),
    HRAConfig(target_modules=["q_proj"]), FourierFTConfig(target_modules=["q_proj"], n_frequency=8),
    LNTuningConfig(target_modules=["input_layernorm"]), TrainableTokensConfig(token_indices=[5]),
]  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("adapter", GOOD_ADAPTERS)
def test_an_adapter_that_fits_comes_to_the_weights(tmp_path, adapter):
    source = without_weights(tmp_path / "model")
    with pytest.raises(OSError, match=NO_WEIGHTS):
        begin("biencoder", source, tmp_path, adapter)


def test_a_lora_of_every_family_comes_to_the_weights(family, source, tmp_path):
    with pytest.raises(OSError, match=NO_WEIGHTS):
        begin(family, source, tmp_path, LoraConfig())


@pytest.mark.parametrize(
    ("family", "settings", "model_kwargs", "message"),
    [
        ("biencoder", {"query_max_length": 2049}, {}, "query_max_length=2049 is longer than the backbone's 2048"),
        ("biencoder", {"passage_max_length": 9999}, {}, "passage_max_length=9999 is longer"),
        ("biencoder", {"eval_truncate_dims": [16, 33]}, {}, "truncate_dim=33 is wider than the embeddings"),
        ("biencoder", {}, {"max_length": 4096}, "max_length=4096 is longer"),
        ("biencoder", {}, {"embedding_dims": [64]}, "64"),
        ("biencoder", {}, {"dense": [{"in_features": 7, "out_features": 3}]}, "dense"),
        ("llara", {"max_length": 4096}, {}, "max_length=4096 needs"),
        ("llara", {"max_length": 9}, {}, "max_length=9, but prefix and prompts take"),
        ("srlm", {}, {"context_window_size": 4096}, "the backbone has 2048"),
        ("srlm", {}, {"add_sep": [600]}, "vocabulary ends at 511"),
    ],
)
def test_sizes_that_do_not_fit(family, settings, model_kwargs, message, tmp_path):
    source = without_weights(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        begin(family, source, tmp_path, model_kwargs=model_kwargs, **settings)


@pytest.mark.cases(2)
@pytest.mark.parametrize("backbone", ["llama", "qwen", "gpt2", "opt", "bert"])
def test_the_same_names_as_the_model_with_weights(family, backbone, tmp_path):
    if backbone == "bert" and family != "biencoder":
        pytest.skip("no decoder")
    folder = tmp_path / "model"
    tiny_backbone(backbone, lm_head=backbone != "bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    kwargs = SIZES.get(family, {"pooling": "mean"} if family == "biencoder" else {})
    kinds = {"biencoder": BiEncoderModel, "llara": LlaraForPreTraining, "srlm": SelfRetrievalLM}
    found = build_weightless(kinds[family], str(folder), config_of(folder, kwargs), kwargs)
    make = SelfRetrievalLM.from_components if family == "srlm" else kinds[family].from_backbone
    whole = make(str(folder), **kwargs, **({"retrieval_method": "bm25"} if family == "srlm" else {}))
    shapes = {name: value.shape for name, value in whole.named_parameters()}
    assert {name: value.shape for name, value in found.named_parameters()} == shapes
    assert {value.device.type for value in found.parameters()} == {"meta"}
    whole.save_pretrained(tmp_path / "repo")
    again = build_weightless(kinds[family], str(tmp_path / "repo"), whole.config, {})
    assert {name: value.shape for name, value in again.named_parameters()} == shapes


COMMANDS = {"biencoder": (finetune, "pairs"), "llara": (pretrain, "passages"), "srlm": (train_lm, "documents")}


def command(family, folder, *options):
    run, name = COMMANDS[family]
    rows = [json.dumps(row) for row in TRAINERS[family][2]]
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    data = [] if "--train_data" in options else ["--train_data", str(folder / f"{name}.jsonl")]
    run.main(["--output_dir", str(folder / "run"), "--use_cpu", *data, *options])


@pytest.mark.cases(2)
@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
def test_the_training_commands_say_it_as_early(family, tmp_path, dry):
    source = without_weights(tmp_path / "model", family)
    lora = ["--lora_rank", "4", "--lora_target_modules", "nonsense"]
    with pytest.raises(ValueError, match="target_modules names 'nonsense'"):
        command(family, tmp_path, "--model", source, *lora, *dry)
    assert not (tmp_path / "run").exists()


@pytest.mark.cases(1)
def test_an_adapter_is_loaded_when_all_else_was_looked_at(family, tmp_path):
    source = without_weights(tmp_path / "model", family)
    with pytest.raises(ValueError, match=r"no file or folder 'no\.jsonl'"):
        command(family, tmp_path, "--model", source, "--adapter", source, "--train_data", "no.jsonl")
    with pytest.raises(ValueError, match="holds no adapter_config"):
        command(family, tmp_path, "--model", source, "--adapter", source)
