"""Options that cannot work are one line before the model is looked for, which here is nowhere; nothing is left."""

import pytest

from tests.support.beir import write_beir
from tests.support.commands import refused
from tests.support.files import write_rows
from tests.support.training import PAIRS, PASSAGES

NOWHERE = ("--model", "user/none")
RUN = ("--output_dir", "IN/new/run", "--report_to", "none", "--use_cpu")
BASES = {
    "finetune": ("finetune", *NOWHERE, "--train_data", "IN/pairs.jsonl"),
    "pretrain": ("pretrain", *NOWHERE, "--train_data", "IN/triples.jsonl"),
    "train-lm": ("train-lm", *NOWHERE, "--train_data", "IN/text.txt"),
    "score": ("score", *NOWHERE, "--task", "qa", "--target", "query", "--data", "IN/pairs.jsonl", "--output"),
    "mine": ("mine", *NOWHERE, "--data", "IN/pairs.jsonl", "--output"),
    "encode": ("encode", *NOWHERE, "--data", "IN/text.txt", "--output"),
    "evaluate": ("evaluate", *NOWHERE, "--data", "IN/beir", "--output"),
    "needle": ("evaluate", "--needle", *NOWHERE, "--data", "IN/text.txt", "--output"),
    "perplexity": ("perplexity", *NOWHERE, "--data", "IN/text.txt", "--report"),
    "merge": ("merge", *NOWHERE, "--output"),
    "convert": ("convert", *NOWHERE, "--output"),
}
SUFFIXES = {
    "score": ".jsonl",
    "mine": ".jsonl",
    "encode": ".safetensors",
    "evaluate": ".json",
    "needle": ".json",
    "perplexity": ".html",
    "merge": "",
    "convert": "",
}
TRAINING = ("finetune", "pretrain", "train-lm")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    write_rows(tmp_path / "triples.jsonl", PASSAGES)
    (tmp_path / "text.txt").write_text("one two three\n")
    write_beir(tmp_path / "beir")
    (tmp_path / "checkpoint").mkdir()
    return tmp_path


def test_a_model_that_is_nowhere_is_named_last(folder, monkeypatch, capsys):
    for name, base in BASES.items():
        output = RUN if name in TRAINING else (f"IN/new/out{SUFFIXES[name]}" if name != "perplexity" else "IN/o.html",)
        assert "user/none" in refused(folder, monkeypatch, capsys, *base, *output), name


@pytest.mark.parametrize("name", SUFFIXES)
def test_outputs_that_cannot_be(folder, monkeypatch, capsys, name):
    suffix = SUFFIXES[name]
    (folder / f"folder{suffix}").mkdir()
    places = {"text.txt/out": "lies below|no folder", "": "must be|must end in|is a folder"}
    if suffix:
        places["folder"] = "is a folder"
    else:
        places["text.txt"] = "is no folder"
    for place, words in places.items():
        output = f"IN/{place}{suffix}" if place else ""
        message = refused(folder, monkeypatch, capsys, *BASES[name], output)
        assert any(word in message for word in words.split("|")) and "user/none" not in message, (place, message)


@pytest.mark.parametrize("name", ["score", "mine", "encode", "evaluate"])
def test_an_output_that_is_there(folder, monkeypatch, capsys, name):
    (folder / f"old{SUFFIXES[name]}").write_text("x")
    message = refused(folder, monkeypatch, capsys, *BASES[name], f"IN/old{SUFFIXES[name]}")
    assert "is there already: name another output, or give --overwrite" in message
    if name == "evaluate":
        message = refused(folder, monkeypatch, capsys, *BASES[name], f"IN/old{SUFFIXES[name]}", "--overwrite")
        assert "user/none" in message


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output_dir", "IN/text.txt"), "output_dir='{}/text.txt' is no folder"),
        (("--output_dir", "IN/text.txt/run"), "lies below '{}/text.txt', which is no folder"),
        (("--output_dir", ""), "output_dir='' must be the name of a folder"),
        (("--push_to_hub", "--hub_model_id", "a/b/c"), "hub_model_id='a/b/c' cannot be the name of a repo"),
        (("--push_to_hub", "--hub_model_id", "x" * 97), "cannot be the name of a repo"),
        (("--push_to_hub", "--hub_model_id", "user/name"), "HF_HUB_OFFLINE is set"),
        (("--eval_data", "no.jsonl"), "There is no file or folder 'no.jsonl'"),
        (("--eval_data", "a/b/c"), "There is no file or folder 'a/b/c'"),
        (("--eval_strategy", "steps", "--eval_steps", 1), "eval_strategy='steps' needs evaluation data"),
        (("--resume_from_checkpoint", "IN/none"), "none' is no folder and must be a checkpoint"),
        (("--resume_from_checkpoint", "IN/checkpoint"), "is a folder without trainer_state.json"),
        (("--resume_from_checkpoint", "true"), "resume_from_checkpoint='true' is no folder"),
        (("--report_to", "nonsense"), "report_to='nonsense' must be one of none, all"),
        (("--optim", "galore_adamw"), "needs galore_torch, which is not installed"),
        (("--lora_rank", 4, "--lora_alpha", 0), "lora_alpha=0 must be at least 1"),
        (("--lora_rank", 4, "--lora_dropout", 2), "lora_dropout=2.0 must be from 0"),
        (("--per_device_train_batch_size", 0), "per_device_train_batch_size=0 must be at least 1"),
    ],
)
def test_trainings_that_cannot_be(folder, monkeypatch, capsys, name, options, message):
    assert message.replace("{}", str(folder)) in refused(folder, monkeypatch, capsys, *BASES[name], *RUN, *options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*BASES["finetune"], *RUN, "--dtype", "float99"), "dtype='float99' is no type of weights"),
        ((*BASES["pretrain"], *RUN, "--dtype", "int8"), "dtype='int8' is no type of weights"),
        ((*BASES["merge"], "IN/new", "--dtype", "float99"), "dtype='float99' is no type of weights"),
        ((*BASES["finetune"], *RUN, "--eval_retrieval", "no"), "There is no folder 'no'"),
        ((*BASES["finetune"], *RUN, "--eval_retrieval", "IN/checkpoint"), "holds no corpus, queries and qrels"),
        ((*BASES["train-lm"], *RUN, "--retriever", "a/b/c"), "--retriever='a/b/c' cannot be the name of a repo"),
        ((*BASES["train-lm"], *RUN, "--retriever", "/no"), "--retriever='/no' is no folder of a model"),
        ((*BASES["train-lm"], *RUN, "--order_method", "x"), "--order_method='x' is not known"),
        ((*BASES["train-lm"], *RUN, "--key_num", 0), "--key_num=0 must be at least 1"),
        ((*BASES["train-lm"], *RUN, "--context_window_size", 10, "--chunk_size", 3), "must divide into chunks"),
        ((*BASES["pretrain"], *RUN, "--stop_words", "no"), "'no' is neither a language"),
        ((*BASES["score"], "IN/o.jsonl", "--data", "bad name"), "There is no file or folder 'bad name'"),
        ((*BASES["mine"], "IN/o.jsonl", "--corpus", "no.txt"), "There is no file or folder 'no.txt'"),
        ((*BASES["mine"], "IN/o.jsonl", "--index", "x"), "index='x' must be one of"),
        ((*BASES["encode"], "IN/o.safetensors", "--data", "/no"), "There is no file or folder '/no'"),
        ((*BASES["evaluate"], "IN/o.json", "--batch_size", 0), "--batch_size=0 must be at least 1"),
        ((*BASES["needle"], "IN/o.json", "--lengths", "4q"), "--lengths '4q' is no number of tokens"),
        ((*BASES["needle"], "IN/o.json", "--lengths", "4k", "4096"), "--lengths has 4096 twice"),
        ((*BASES["needle"], "IN/o.json", "--depths", 101), "--depths 101 must be from 0 to 100"),
        ((*BASES["needle"], "IN/o.json", "--keys", 0), "--keys 0 must be at least 1"),
        ((*BASES["needle"], "IN/o.json", "--methods", "oracle"), "--methods oracle needs the answer"),
        ((*BASES["needle"], "IN/o.json", "--methods", "bm52"), "Did you mean 'bm25'?"),
        ((*BASES["needle"], "IN/o.json", "--samples", 0), "--samples 0 must be at least 1"),
        ((*BASES["needle"], "IN/o.json", "--ks", 1), "--ks is no option of this command"),
        ((*BASES["needle"], "IN/o.json", "--report", "IN/no/o.html"), "there is no folder"),
        ((*BASES["needle"], "IN/o.json", "--picture", "IN/checkpoint"), "--picture='{}/checkpoint' is a folder"),
        ((*BASES["needle"], "IN/o.json", "--data", "no.txt"), "There is no file or folder 'no.txt'"),
        ((*BASES["needle"], "IN/o.json", "--report", "IN/o.txt"), "o.txt' must end in .html or .htm"),
        ((*BASES["needle"], "IN/o.json", "--picture", "IN/o.png"), "o.png' must end in .svg, as that is what is"),
        ((*BASES["needle"], "IN/o.json", "--picture", "IN/picture"), "a name, like 'picture.svg'"),
        ((*BASES["perplexity"], "IN/o.txt"), "--report='{}/o.txt' must end in .html or .htm"),
        ((*BASES["perplexity"], "IN/o.html", "--methods", "bm52"), "Did you mean 'bm25'?"),
        ((*BASES["perplexity"], "IN/o.html", "--scored_tokens", 0), "--scored_tokens=0 must be at least 1"),
        (("generate", *NOWHERE, "--prompt", "a", "--retrieval_method", "x"), "--retrieval_method='x' is not known"),
        (("generate", *NOWHERE, "--prompt", "a", "--max_new_tokens", 0), "--max_new_tokens=0 must be at least 1"),
        (("generate", *NOWHERE, "--prompt", "a", "--top_p", 2), "top_p at most 1"),
        (("explain", "a", *NOWHERE, "--top_k", 0), "--top_k=0 must be at least 1"),
        (("push", "--folder", "IN/checkpoint", "--repo_id", "a/b/c"), "--repo_id='a/b/c' cannot be the name"),
        (("pull", "--repo_id", "user/.."), "--repo_id='user/..' cannot be the name"),
        (("pull", "--repo_id", "user/x", "--local_dir", "IN/text.txt"), "is no folder"),
    ],
)
def test_options_that_cannot_be(folder, monkeypatch, capsys, arguments, message):
    assert message.replace("{}", str(folder)) in refused(folder, monkeypatch, capsys, *arguments)
