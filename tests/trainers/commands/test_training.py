import json

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.commands import run
from tests.support.tiny import tiny_backbone
from trainers.commands import finetune, pretrain, train_lm
from trainers.commands.loading import EmbedderArguments
from trainers.commands.parsing import parse_arguments
from trainers.commands.search import SearchArguments
from trainers.mining.settings import MiningSettings


def test_finetune(folder, capsys):
    prompts = {"default": {"query": "ask: "}}
    output = run(
        finetune, folder, "pairs.jsonl", ["--max_steps", "3", "--temperature", "0.5"], train_group_size=2,
        pooling="mean", prompts=prompts, temperature=0.1, gradient_accumulation_steps=3,
    )  # fmt: skip
    assert capsys.readouterr().out.startswith("1 process, 6 queries a step\n")
    config = BiEncoderModel.from_pretrained(output).config
    assert (config.pooling, config.temperature, config.prompts) == ("mean", 0.5, prompts)
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 3  # argv wins over the file


def test_finetune_of_a_half_precision_checkpoint(folder):
    tiny_backbone("llama").bfloat16().save_pretrained(folder / "backbone")
    output = run(finetune, folder, "pairs.jsonl", [], train_group_size=2, dtype="float32")
    assert {weight.dtype for weight in BiEncoderModel.from_pretrained(output).parameters()} == {torch.float32}


def test_pretrain_with_a_lora(folder):
    output = run(
        pretrain, folder, "passages.jsonl", [], max_length=128, bow_loss_weight=0.5, lora_rank=4,
        lora_target_modules=["q_proj", "v_proj"],
    )  # fmt: skip
    saved = json.loads((output / "adapter_config.json").read_text())
    assert saved["r"] == 4 and sorted(saved["target_modules"]) == ["q_proj", "v_proj"]
    assert json.loads((output / "config.json").read_text())["bow_loss_weight"] == 0.5
    assert not (output / "model.safetensors").exists()


def test_pretrain_of_a_half_precision_checkpoint(folder):
    tiny_backbone("llama").bfloat16().save_pretrained(folder / "backbone")
    settings = {"loss_weighting": "uncertainty", "predict_sees_summarize": True, "dtype": "float32"}
    output = run(pretrain, folder, "passages.jsonl", [], max_length=128, **settings)
    model = LlaraForPreTraining.from_pretrained(output)
    assert (model.config.loss_weighting, model.config.predict_sees_summarize) == ("uncertainty", True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_pretrain_goes_on_from_the_last_checkpoint(folder):
    settings = {"max_length": 128, "save_strategy": "steps", "save_steps": 2}
    run(pretrain, folder, "passages.jsonl", ["--resume_from_checkpoint", "last"], **settings)
    output = run(
        pretrain,
        folder,
        "passages.jsonl",
        ["--resume_from_checkpoint", "last", "--max_steps", "4"],
        **settings,
    )
    steps = [entry["step"] for entry in json.loads((output / "trainer_state.json").read_text())["log_history"]]
    assert steps.count(1) == steps.count(3) == 1
    model = LlaraForPreTraining.from_pretrained(output)
    assert model.tokenizer.convert_tokens_to_ids("<|predict_8|>") == model.config.predict_token_ids[-1]


def test_train_lm(folder):
    output = run(
        train_lm, folder, "text.txt", [], document_length=96, target_size=16, context_window_size=32,
        chunk_size=8, key_num=1, add_bos=True,
    )  # fmt: skip
    config = SelfRetrievalLM.from_pretrained(output).config
    assert (config.retrieval_method, config.chunk_size, config.add_bos) == ("bm25", 8, True)


def test_a_misspelt_key_of_the_file_is_named(folder):
    (folder / "config.yaml").write_text("model: x\ntrain_data: y\nlearning_rat: 0.1\n")
    with pytest.raises(ValueError, match="'learning_rat' is not an argument: did you mean 'learning_rate'"):
        finetune.main(["--config", str(folder / "config.yaml")])
    (folder / "config.yaml").write_text("- model\n")
    with pytest.raises(ValueError, match="must hold a mapping"):
        finetune.main([f"--config={folder / 'config.yaml'}"])
    (folder / "config.yaml").write_text("model: [")
    with pytest.raises(ValueError, match=r"config.yaml, line 1 is no YAML"):
        finetune.main(["--config", str(folder / "config.yaml")])
    with pytest.raises(ValueError, match=r"--config='none.yaml' must be a file and is none"):
        finetune.main(["--config", "none.yaml"])
    required = ["--model", "x", "--train_data", "y", "--output_dir", str(folder / "none")]
    with pytest.raises(ValueError, match=r"prompts='{bad' is not JSON"):
        finetune.main([*required, "--prompts", "{bad"])


QUERIES = ["yes", "007", "12:30", "null", "2020-01-01", "1e3", "-x flag", "a: b"]


def test_texts_of_the_file_are_what_stands_there(folder):
    file = folder / "search.yaml"
    file.write_text(
        "index: e.npy\nrevision: 0123456\ntask: ~\nmodel:\nbatch_size: 0x10\noverwrite: on\n"
        "query: [yes, 007, 12:30, null, 2020-01-01, 1e3, -x flag, 'a: b']\n"
    )
    kinds = (SearchArguments, EmbedderArguments)
    (folder / "e.npy").touch()
    index = ["--index", str(folder / "e.npy"), "--output", str(folder / "hits.jsonl")]
    found, loading = parse_arguments(["--config", str(file), *index], kinds, "search", None)
    assert found.query == QUERIES and (found.batch_size, found.overwrite, found.task) == (16, True, None)
    assert loading.revision == "0123456" and found.model is None
    for value in ("--num_shards", "-x", "--top_k=3 of all"):
        file.write_text(f"query: {value}\n")
        assert parse_arguments(["--config", str(file), *index], kinds, "search", None)[0].query == [value]
        file.write_text(f"query: [a, {value}]\n")
        with pytest.raises(ValueError, match=rf"search\.yaml: 'query' holds '{value}' among others"):
            parse_arguments(["--config", str(file), *index], kinds, "search", None)
    file.write_text("retriever: bm25\nexisting: keep\nmin_score: -1\n")
    assert parse_arguments(["--config", str(file)], (MiningSettings,), "mine", None)[0].min_score == -1
