"""Every command takes its model in every form: a GGUF file, an adapter whose base has moved, a published model."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from modeling_biencoder import BiEncoderModel
from tests.support import quick_first
from tests.support.beir import write_beir
from tests.support.files import write_rows
from tests.support.gguf_file import NAME, write_gguf
from tests.support.sentence_folders import saved
from tests.support.tiny import TEXT, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES
from trainers import add_adapter, cli, load_embeddings

QUIET = (
    "--max_steps 1 --per_device_train_batch_size 2 --report_to none --disable_tqdm true --use_cpu true "
    "--save_strategy no"
)
SIZES = "--context_window_size 64 --chunk_size 16 --key_num 2"
ROWS = [
    {"query": f"query {i}", "pos": [f"a lantern {i}"], "neg": [f"an island {i}"], "answers": ["yes"]} for i in range(4)
]
# What each command writes to {out}, or prints, of a plain language model.
LINES = {
    "encode": "--data texts.jsonl --output {out}.safetensors --pooling mean",
    "evaluate": "--data beir --output {out}.json --pooling mean",
    "mine": "--data rows.jsonl --corpus texts.jsonl --output {out}.jsonl --pooling mean --rank_from 0",
    "score": "--data rows.jsonl --task qa --output {out}.jsonl",
    "perplexity": "--data long.txt --methods no bm25 --target_size 32 " + SIZES,
    "generate": "--prompt_file long.txt --max_new_tokens 4 --target_size 32 " + SIZES,
    "finetune": f"--train_data pairs.jsonl --train_group_size 2 --output_dir {{out}} --pooling mean {QUIET}",
    "pretrain": f"--train_data passages.jsonl --output_dir {{out}} {QUIET}",
    "train-lm": f"--train_data long.txt --output_dir {{out}} {SIZES} {QUIET}",
}  # fmt: skip


@pytest.fixture
def forms(tmp_path, monkeypatch) -> dict[str, list[str]]:
    """The options that name the model: of the GGUF file, and of a plain repo with its weights."""
    for name in ("gguf", "plain"):
        (tmp_path / name).mkdir()
    write_gguf(tmp_path / "gguf").save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in ("a copper lantern", "the island", "a hammer")])
    for name, rows in {"rows": ROWS, "pairs": PAIRS, "passages": PASSAGES}.items():
        write_rows(tmp_path / f"{name}.jsonl", rows)
    write_beir(tmp_path / "beir")
    (tmp_path / "long.txt").write_text(TEXT * 6)
    monkeypatch.chdir(tmp_path)
    return {"gguf": ["--model", "gguf", "--gguf_file", NAME], "plain": ["--model", "plain"]}


def result(command: str, out: str, options: list[str], capsys) -> object:
    """What the command made: the file, the metrics of a training, or what it printed."""
    cli.run([command, *options, *LINES[command].format(out=out).split()])
    printed = capsys.readouterr().out
    if command == "encode":
        return load_embeddings(f"{out}.safetensors")[0].flatten().tolist()
    if command == "evaluate":
        return list(json.loads(Path(f"{out}.json").read_text())["metrics"]["beir"].values())
    if command in ("mine", "score"):
        return json.loads("[" + ",".join(Path(f"{out}.jsonl").read_text().splitlines()) + "]")
    if command in ("perplexity", "generate"):
        return printed
    assert "quant" not in (Path(out) / "config.json").read_text() and "GGUF" not in printed
    return json.loads((Path(out) / "train_results.json").read_text())["train_loss"]


@pytest.mark.parametrize("command", quick_first(LINES))
def test_a_gguf_file_is_a_model_of_every_command(command, forms, capsys):
    found, wanted = (result(command, name, options, capsys) for name, options in forms.items())
    if isinstance(wanted, float) or command in ("encode", "evaluate"):
        # Beside a GGUF file there is a token more, so that LLaRA's new ones have other random rows.
        wanted = pytest.approx(wanted, abs=1e-2 if command == "pretrain" else 1e-5)
    assert found == wanted


def test_search_reads_its_queries_with_it(forms, capsys):
    result("encode", "index", forms["gguf"], capsys)
    cli.run(
        ["search", "--index", "index.safetensors", "--query", "a copper lantern", "--pooling", "mean", *forms["gguf"]]
    )
    assert capsys.readouterr().out.splitlines()[-3].split("\t")[:2] == ["0", "1.0000"]


RETRIEVING = ("perplexity", "generate", "train-lm")
EMBEDDING = ("encode", "evaluate", "mine", "finetune")


def line_of(command: str, model: str) -> list[str]:
    """A command line with `model` in the place of a retriever, which writes to `{model}-out`."""
    line = LINES.get(command, "--query lantern --index index.safetensors").format(out=f"{model}-out")
    line = line.replace("--pooling mean", "").replace("--methods no bm25", "--methods dense")
    if command == "score":
        return [command, *line.replace("--task qa", "").split(), "--teacher", model]
    return [
        command,
        *line.split(),
        *(["--model", "plain", "--retriever", model] if command in RETRIEVING else ["--model", model]),
    ]


@pytest.mark.parametrize("command", quick_first((*RETRIEVING, *EMBEDDING, "score", "search")))
def test_a_sentence_transformers_folder_is_a_retriever_of_every_command(command, forms, tmp_path, capsys):
    saved(tmp_path / "st", prompts={"query": "find: ", "document": "text: "})
    BiEncoderModel.from_backbone("st").save_pretrained("bi")
    found = []
    for model in ("st", "bi"):
        if command == "search":
            cli.run(f"encode --model {model} --data texts.jsonl --output index.safetensors --overwrite".split())
        capsys.readouterr()
        cli.run(line_of(command, model))
        if command in ("finetune", "train-lm"):
            found.append(json.loads((Path(f"{model}-out") / "train_results.json").read_text())["train_loss"])
        elif command == "encode":
            found.append(load_embeddings(f"{model}-out.safetensors")[0].tolist())
        elif command in ("mine", "score"):
            found.append(Path(f"{model}-out.jsonl").read_text())
        elif command == "evaluate":
            found.append(json.loads(Path(f"{model}-out.json").read_text())["metrics"])
        else:
            found.append(capsys.readouterr().out)
    assert found[0] == found[1] and found[0]


@pytest.fixture
def moved(forms) -> str:
    """An adapter of the plain LM, which has gone to another folder since."""
    lm = AutoModelForCausalLM.from_pretrained(Path("plain").absolute())
    torch.manual_seed(0)
    get_peft_model(lm, LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM")).save_pretrained("lora")
    Path("plain").rename("elsewhere")
    return "lora"


@pytest.mark.parametrize("command", quick_first(LINES))
def test_a_base_that_has_moved_is_named_to_every_command(command, moved, capsys):
    preset = ["--preset", "repllama"] if "--pooling mean" in LINES[command] else []
    options = LINES[command].format(out="out").replace("--pooling mean", "").split()
    line = [command, "--model", moved, *preset, *options]
    with pytest.raises((ValueError, OSError), match="plain"):
        cli.run(line)
    cli.run([*line, "--base", "elsewhere"])


def test_an_adapter_of_ours_finds_its_base_where_it_is_said(forms, capsys):
    plain = BiEncoderModel.from_backbone("plain", pooling="mean")
    plain.save_pretrained("bi")
    model = BiEncoderModel.from_pretrained(Path("bi").absolute())
    add_adapter(model, LoraConfig(r=4, init_lora_weights=False))
    model.eval().save_pretrained("own-lora")
    Path("bi").rename("moved-bi")
    line = ["encode", "--model", "own-lora", "--data", "texts.jsonl", "--output", "own.safetensors"]
    with pytest.raises((ValueError, OSError), match="bi"):
        cli.run(line)
    cli.run([*line, "--base", "moved-bi"])
    texts = [json.loads(row)["text"] for row in Path("texts.jsonl").read_text().splitlines()]
    torch.testing.assert_close(
        load_embeddings("own.safetensors")[0], model.encode(texts, role="passage"), atol=1e-6, rtol=0
    )
    score = ["score", "--teacher", "own-lora", "--base", "moved-bi", "--data", "rows.jsonl", "--output", "own.jsonl"]
    cli.run(score)
    (first, *_) = [json.loads(row)["teacher_scores"] for row in Path("own.jsonl").read_text().splitlines()]
    query, passages = model.encode(["query 0"]), model.encode(["a lantern 0", "an island 0"], role="passage")
    assert first == pytest.approx(model.similarity(query, passages)[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("command", LINES)
def test_a_base_is_for_adapters(command, forms):
    with pytest.raises(ValueError, match=r"base.* is for an adapter"):
        cli.run([command, *forms["plain"], "--base", "gguf", *LINES[command].format(out="out").split()])


def test_a_teacher_may_be_a_plain_backbone_with_a_pooling(forms, capsys):
    line = ["score", "--data", "rows.jsonl", "--output", "taught.jsonl", "--pooling", "mean"]
    with pytest.raises(ValueError, match="--pooling='mean' is for a bi-encoder as --teacher"):
        cli.run([*line, "--task", "qa", "--model", "plain"])
    cli.run([*line, "--teacher", "gguf", "--gguf_file", NAME])
    scores = json.loads(Path("taught.jsonl").read_text().splitlines()[0])["teacher_scores"]
    model = BiEncoderModel.from_backbone("plain", pooling="mean")
    query, passages = model.encode(["query 0"]), model.encode(["a lantern 0", "an island 0"], role="passage")
    assert scores == pytest.approx(model.similarity(query, passages)[0].tolist(), abs=1e-5)
