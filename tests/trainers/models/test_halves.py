"""Half a model is refused in one line that names the file, the folder and the fix, before any weights are read."""

import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.beir import write_beir
from tests.support.files import write_rows
from tests.support.halves import HALVES, POINTER, without_words
from tests.support.sentence_folders import saved
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, add_adapter, cli

SMALL = {"context_window_size": 64, "chunk_size": 16, "target_size": 32}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to work in with a sentence-transformers model, a language model, and data."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "model")
    tiny_backbone().save_pretrained("lm")
    tiny_tokenizer().save_pretrained("lm")
    write_rows(Path("texts.jsonl"), [{"text": "a copper lantern"}, {"text": "the island"}])
    write_rows(Path("pairs.jsonl"), PAIRS)
    Path("long.txt").write_text(TEXT * 6)
    write_beir(Path("beir"))
    return tmp_path


def no_weights(monkeypatch):
    def read(cls, source, *args, **kwargs):
        raise AssertionError(f"the weights of {source} are read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(read))


def train(source):
    rows = [{"query": "a", "pos": ["b"], "neg": ["c"]}]
    return BiEncoderTrainer(source, arguments(BiEncoderTrainingArguments, Path("run")), rows)


ROADS = {
    "from_backbone": BiEncoderModel.from_backbone,
    "from_components": lambda source: SelfRetrievalLM.from_components("lm", retriever=source),
    "a Trainer": train,
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("half", HALVES)
def test_in_python(half, road, work, monkeypatch):
    spoil, message = HALVES[half]
    spoil(Path("model"))
    no_weights(monkeypatch)
    with pytest.raises((OSError, ValueError), match=message) as caught:
        ROADS[road]("model")
    assert "\n" not in str(caught.value)


LINES = {
    "encode": "--model {} --data texts.jsonl --output out.npy",
    "evaluate": "--model {} --data beir",
    "mine": "--model {} --data pairs.jsonl --output out.jsonl",
    "score": "--teacher {} --data pairs.jsonl --output out.jsonl",
    "search": "--model {} --index index.npy --query lantern",
    "finetune": "--model {} --train_data pairs.jsonl --output_dir out --report_to none --use_cpu",
    "perplexity": "--model lm --retriever {} --data long.txt --methods dense --context_window_size 64 --chunk_size 16",
    "generate": "--model lm --retriever {} --prompt_file long.txt --context_window_size 64 --chunk_size 16",
    "needle": "--model lm --retriever {} --methods dense --lengths 512 --context_window_size 64 --chunk_size 16",
    "train-lm": "--model lm --retriever {} --train_data long.txt --output_dir out --report_to none --use_cpu "
    "--context_window_size 64 --chunk_size 16 --retrieval_method dense",
}  # fmt: skip


def said(command, line, monkeypatch, capsys):
    """What the command says as it ends."""
    argv = [command, *line.split()]
    monkeypatch.setattr(sys, "argv", ["lookback", *argv])
    with pytest.raises(SystemExit) as caught:
        cli.run_or_say(argv)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.cases(2)
@pytest.mark.parametrize("command", LINES)
def test_in_every_command(command, work, monkeypatch, capsys):
    if command == "search":
        cli.run(["encode", "--model", "model", "--data", "texts.jsonl", "--output", "index.npy"])
    no_weights(monkeypatch)
    without_words(Path("model"))
    assert "no tokenizer could be loaded from 'model'" in said(
        command, LINES[command].format("model"), monkeypatch, capsys
    )
    (Path("model") / "config.json").unlink()
    assert "'model' has no config.json" in said(command, LINES[command].format("model"), monkeypatch, capsys)


def our_adapter(name):
    """An adapter of a bi-encoder, which has gone to another folder since."""
    BiEncoderModel.from_backbone("model").save_pretrained("base")
    model = BiEncoderModel.from_pretrained(Path("base").absolute())
    add_adapter(model, LoraConfig(r=2, init_lora_weights=False))
    model.save_pretrained(name)
    Path("base").rename("moved")


@pytest.mark.cases(2)
@pytest.mark.parametrize("command", [name for name in LINES if name not in ("search", "finetune")])
def test_an_adapter_whose_base_is_elsewhere(command, work, monkeypatch, capsys):
    our_adapter("lora")
    with monkeypatch.context() as patch:
        no_weights(patch)
        line = said(command, LINES[command].format("lora"), patch, capsys)
    assert f"the adapter 'lora' was made for '{Path('base').absolute()}', which cannot be read here" in line
    assert "--base" in line


def test_a_retriever_that_is_an_adapter_finds_its_base(work):
    our_adapter("lora")
    with pytest.raises(ValueError, match=r"made for '.*base', which cannot be read here .*--retriever_base"):
        SelfRetrievalLM.from_components("lm", retriever="lora")
    lm = SelfRetrievalLM.from_components("lm", retriever="lora", retriever_kwargs={"base": "moved"}, **SMALL)
    assert lm.retriever.backbone.config.model_type == "bert"
    with pytest.raises(ValueError, match=r"base \(--retriever_base\) is for an adapter"):
        SelfRetrievalLM.from_components("lm", retriever="moved", retriever_kwargs={"base": "model"})


def test_a_plain_backbone_is_no_retriever(work, monkeypatch):
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match="'lm' is a 'llama' model, which says nothing of pooling"):
        SelfRetrievalLM.from_components("lm", retriever="lm")


def test_an_adapter_of_a_plain_backbone(work):
    lm = AutoModelForCausalLM.from_pretrained(Path("lm").absolute())
    get_peft_model(lm, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained("plain-lora")
    Path("lm").rename("moved")
    named = {"base": "moved"}
    makes = {
        BiEncoderModel.from_backbone: named,
        LlaraForPreTraining.from_backbone: named,
        SelfRetrievalLM.from_components: {"model_kwargs": named, **SMALL},
    }
    for make, keywords in makes.items():
        with pytest.raises(ValueError, match=r"'plain-lora' was made for '.*lm', which cannot be read here"):
            make("plain-lora")
        make("plain-lora", **keywords)


def test_half_of_a_repo_of_ours(work):
    BiEncoderModel.from_backbone("model").save_pretrained("ours")
    (Path("ours") / "model.safetensors").write_text(POINTER)
    with pytest.raises(OSError, match="'ours' is a pointer of Git LFS"):
        BiEncoderModel.from_pretrained("ours")
    (Path("ours") / "config.json").unlink()
    with pytest.raises(OSError, match=r"'ours' has no config\.json"):
        BiEncoderModel.from_pretrained("ours")


def test_a_model_below_the_folder_is_named(work):
    tiny_backbone().save_pretrained("run/checkpoint-5")
    with pytest.raises(OSError, match=r"'run' has no config\.json.*: did you mean 'run/checkpoint-5'"):
        BiEncoderModel.from_backbone("run")


def test_a_shard_that_is_not_there(work):
    tiny_backbone().save_pretrained("shards", max_shard_size="50KB")
    lost = sorted(Path("shards").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(OSError, match=rf"'shards' has no file named {lost.name}, which its model.safetensors.index"):
        BiEncoderModel.from_backbone("shards", pooling="mean")


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "b.safetensors"}}'],
)
def test_json_of_another_shape(tmp_path, text):
    """An index is looked at where it will be read; beside whole weights it is not."""
    BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer()).save_pretrained(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    BiEncoderModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"index.json is no index of weights"):
        BiEncoderModel.from_pretrained(tmp_path)
    if not text.startswith("{"):
        (tmp_path / "config.json").write_text(text)
        index.unlink()
        with pytest.raises(OSError, match=r"config.json of .* holds .*, and must hold an object"):
            BiEncoderModel.from_pretrained(tmp_path)
