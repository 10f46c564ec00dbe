"""Options that would do nothing where they are given are refused by name, before anything is looked for."""

import pytest

from tests.support.beir import write_beir
from tests.support.commands import refused
from tests.support.files import write_rows
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES

MODEL = ("--model", "user/none")
RUN = ("--output_dir", "IN/run", "--report_to", "none", "--use_cpu")
FINETUNE = ("finetune", *MODEL, "--train_data", "IN/pairs.jsonl", *RUN)
PRETRAIN = ("pretrain", *MODEL, "--train_data", "IN/triples.jsonl", *RUN)
TRAIN_LM = ("train-lm", "--model", "IN/lm", "--context_window_size", 512, "--train_data", "IN/text.txt", *RUN)
ROWS = ("score", *MODEL, "--task", "qa", "--data", "IN/pairs.jsonl", "--output", "IN/o.jsonl")
DOCUMENTS = ("score", "--model", "IN/lm", "--task", "document", "--data", "IN/text.txt", "--output", "IN/o.jsonl")
TEACHER = ("score", "--data", "IN/pairs.jsonl", "--output", "IN/o.jsonl", "--teacher")
ENCODE = ("encode", "--data", "IN/text.txt", "--output", "IN/o.npy", "--model")
MINE = ("mine", "--data", "IN/pairs.jsonl", "--output", "IN/o.jsonl")
BM25 = (*MINE, "--retriever", "bm25")
PERPLEXITY = ("perplexity", "--model", "IN/lm", "--data", "IN/text.txt")
CHAT = ("perplexity", *MODEL, "--task", "chat", "--data", "IN/pairs.jsonl")
GENERATE = ("generate", "--model", "IN/lm", "--prompt", "a")
NEEDLE = ("needle", "--model", "IN/lm", "--data", "IN/text.txt")
ALONE = (*NEEDLE, "--methods", "alone")
PLAN = ("plan", *MODEL, "--system")
RETRIEVER = ("--retriever", "user/other")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idle")
    tiny_backbone().save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    next(folder.rglob("*.safetensors")).unlink()
    write_rows(folder / "pairs.jsonl", PAIRS)
    write_rows(folder / "triples.jsonl", PASSAGES)
    (folder / "text.txt").write_text("one two three\n" * 99)
    write_beir(folder / "beir")
    return folder


KEPT = (("--num_sink_tokens", 2), ("--store_place", "disk"), ("--store_dtype", "int8"), ("--store_limit", "1GiB"))


@pytest.mark.parametrize("command", [PERPLEXITY, GENERATE, NEEDLE, DOCUMENTS, TRAIN_LM], ids=lambda words: words[0])
@pytest.mark.parametrize("option", KEPT, ids=lambda option: option[0])
def test_settings_of_kept_states_go_with_reuse_states(folder, monkeypatch, capsys, command, option):
    said = refused(folder, monkeypatch, capsys, *command, *option)
    assert f"{option[0]} has no meaning without --reuse_states" in said and "give that too, or leave it out" in said
    said = refused(folder, monkeypatch, capsys, *command, *option, "--reuse_states", "false")
    assert f"{option[0]}=" in said and "has no meaning with --reuse_states false: leave it out" in said


@pytest.mark.parametrize(
    ("command", "option", "why"),
    [
        (FINETUNE, ("--lora_alpha", 8), "without lora_rank"),
        (FINETUNE, ("--lora_dropout", 0.5), "without lora_rank"),
        (PRETRAIN, ("--lora_target_modules", "q_proj"), "without lora_rank"),
        (PRETRAIN, ("--adapter_revision", "v1"), "without adapter"),
        (FINETUNE, ("--bnb_4bit_quant_type", "fp4"), "without load_in_4bit"),
        (FINETUNE, ("--shuffle_buffer", 5), "without streaming"),
        (FINETUNE, ("--mixture_temperature", 3), "with mixture='proportional'"),
        (FINETUNE, ("--examples_max_length", 8), "without max_examples"),
        ((*FINETUNE, "--distillation_weight", 0), ("--teacher_temperature", 2), "with distillation_weight=0"),
        ((*FINETUNE, "--use_teacher_scores", "false"), ("--margin_mse_weight", 1), "with use_teacher_scores=False"),
        ((*FINETUNE, "--in_batch_negatives", "false"), ("--symmetric_weight", 1), "with in_batch_negatives=False"),
        (FINETUNE, ("--false_negative_margin_kind", "relative"), "without false_negative_margin"),
        (TRAIN_LM, ("--index_refresh_steps", 3), "with retrieval_method='bm25', which embeds nothing"),
        ((*GENERATE, "--retrieval_method", "no"), ("--show_retrieval",), "with --retrieval_method no"),
        ((*FINETUNE, "--pooling", "mean"), ("--pooling_k", 3), "with --pooling mean"),
        ((*PRETRAIN, "--model", "IN/lm"), ("--loss_weighting_learning_rate", 0.1), "with loss_weighting='fixed'"),
        ((*PRETRAIN, "--model", "IN/lm"), ("--precision_k", 3), "without eval_data"),
        (FINETUNE, ("--eval_retrieval_revision", "v1"), "without eval_retrieval"),
        ((*FINETUNE, "--eval_retrieval", "IN/beir"), ("--eval_retrieval_revision", "v1"), "IN/beir' is a folder"),
        ((*PRETRAIN, "--remove_stop_words", "false"), ("--stop_words", "german"), "with remove_stop_words=False"),
        (TRAIN_LM, ("--retriever_base", "user/base"), "without --retriever"),
        ((*PERPLEXITY, "--reuse_states"), ("--target_size", 64), "with --reuse_states, where each chunk has"),
        ((*GENERATE, "--reuse_states"), ("--target_size", 64), "with --reuse_states, where each chunk has"),
        (TRAIN_LM, ("--revision", "v1"), "--model='IN/lm' is a folder: leave it out"),
        (ROWS, ("--cuts", 2), "without --task document"),
        (ROWS, ("--document_length", 99), "without --task document"),
        (ROWS, ("--candidates", "all"), "without --task document"),
        (DOCUMENTS, ("--target", "query"), "with --task document"),
        ((*DOCUMENTS, "--candidates", "all"), ("--random_candidates", 9), "with --candidates all"),
        ((*TEACHER, "IN/lm"), ("--score", "sum"), "with --teacher="),
        (BM25, ("--task", "nli"), "with retriever='bm25'"),
        (BM25, ("--pooling", "mean"), "with --retriever bm25"),
        (BM25, ("--revision", "v1"), "with --retriever bm25"),
        ((*MINE, *MODEL, "--sampling", "top"), ("--seed", 3), "with sampling='top'"),
        ((*PERPLEXITY, *RETRIEVER, "--methods", "no", "bm25"), (), "for the methods no, bm25"),
        (PERPLEXITY, ("--batch_size", 2), "without --task chat"),
        (CHAT, ("--max_length", 9), "of a chat"),
        (CHAT, ("--target_size", 9), "of a chat"),
        (CHAT, ("--reuse_states",), "of a chat"),
        (GENERATE, ("--temperature", 0.5), "without --do_sample"),
        (GENERATE, ("--top_k", 5), "without --do_sample"),
        (GENERATE, ("--top_p", 0.5), "without --do_sample"),
        (GENERATE, ("--seed", 5), "without --do_sample"),
        ((*GENERATE, *RETRIEVER, "--retrieval_method", "bm25"), (), "for the methods bm25"),
        (NEEDLE, ("--overwrite",), "without --output"),
        (NEEDLE, RETRIEVER, "for the methods no, bm25"),
        (ALONE, ("--chunk_batch_size", 2), "with --methods alone"),
        (ALONE, ("--key_num", 2), "with --methods alone"),
        (ALONE, ("--reuse_states",), "with --methods alone"),
        (("evaluate", *MODEL, "--data", "IN/beir"), ("--data_revision", "v1"), "--data='IN/beir' is a folder"),
        ((*ENCODE, "IN/lm"), ("--revision", "v1"), "--model='IN/lm' is a folder"),
        ((*ENCODE, "user/none"), ("--text_field", "body"), "whose lines are the texts"),
        (("merge", *MODEL, "--output", "IN/m"), ("--retriever_revision", "v1"), "without --retriever"),
        (("merge", *MODEL, "--output", "IN/m", "--base", "IN/lm"), ("--base_revision", "v1"), "--base='IN/lm' is a"),
        (("pull", "--inspect", "user/none"), ("--local_dir", "IN/p"), "with --inspect"),
        (("pull", "--inspect", "user/none"), ("--allow_unsafe",), "with --inspect"),
        (("pull", "--inspect", "IN/lm"), ("--revision", "v1"), "--inspect='IN/lm' is a folder"),
        ((*PLAN, "srlm"), ("--num_train_epochs", 3), "without --rows"),
        ((*PLAN, "biencoder"), ("--truncate_dim", 8), "without --passages"),
        ((*PLAN, "srlm"), ("--store_dtype", "int8"), "with --reuse_states"),
    ],
)  # fmt: skip
def test_an_idle_option_is_named(folder, monkeypatch, capsys, command, option, why):
    said = refused(folder, monkeypatch, capsys, *command, *option)
    assert why.replace("IN/", f"{folder}/") in said and "leave it out" in said
    assert not option or f"{str(option[0]).removeprefix('--')}=" in said
