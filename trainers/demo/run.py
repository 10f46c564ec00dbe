"""`lookback demo`: the whole loop on the embedded corpus, in minutes, with a report to look at."""

import time
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from hub_cards.whole_files import full_disk_named
from modeling_srlm import SelfRetrievalLM

from ..commands.parsing import parse_arguments
from ..embedded.corpus import code_pairs, standard_library
from ..perplexity.measure import MethodResult, compare_methods, tokenize_texts
from .adaptation import adapt_backbone
from .feedback import chunk_rows, code_rows
from .reload import check_reload, save_repos
from .report import write_report
from .retrieval import CUTOFF, evaluate_biencoder, evaluate_bm25, finetune_biencoder, to_biencoder
from .settings import LM_SETTINGS, DemoArguments

METHODS = ("no", "random", "bm25", "dense", "oracle")
MAPPED_DOCUMENT, MAPPED_TOKENS = "argparse", 2048
ARGUMENTS = (DemoArguments,)
EXAMPLES = r"""
# the whole loop, in minutes
lookback demo
# on your own backbone
lookback demo --backbone HuggingFaceTB/SmolLM2-135M --output_dir runs/smol
# a first look, in seconds
lookback demo --llara_steps 5 --biencoder_steps 5 --code_pairs 64 --holdout_pairs 50 \
    --feedback_documents 2 --max_documents 2
"""


def main(argv: list[str]) -> None:
    """Runs the demo with the arguments `argv` and prints its table."""
    (options,) = parse_arguments(argv, ARGUMENTS, "demo", __doc__)
    with full_disk_named(options.output_dir):
        run_demo(options)


def run_demo(options: DemoArguments) -> dict[str, Any]:
    """All the steps; returns what the table shows."""
    began = time.perf_counter()
    set_seed(options.seed)
    logging.set_verbosity_error()
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    documents = [document for document in standard_library("train") if "test" not in document.name]
    pairs, holdout_pairs = code_pairs("train", options.code_pairs), code_pairs("holdout", options.holdout_pairs)

    _announce("1/5 LLaRA adapts the backbone")
    llara, llara_log = adapt_backbone(options, documents)
    save_repos({"llara": llara}, output_dir)
    _announce("2/5 the language model scores what helps it")
    lm = SelfRetrievalLM.from_components(options.backbone, retrieval_method="bm25", **LM_SETTINGS)
    rows = code_rows(lm, pairs, options.group_size - 1)
    rows += chunk_rows(lm, documents, options.feedback_documents, options.document_length, options.seed)
    _announce(f"3/5 the bi-encoder learns from {len(rows):,} scored rows")
    biencoder = to_biencoder(llara)
    retrieval = {"BM25": evaluate_bm25(holdout_pairs), "untrained": evaluate_biencoder(biencoder, holdout_pairs)}
    biencoder_log = finetune_biencoder(biencoder, rows, options)
    retrieval["fine-tuned"] = evaluate_biencoder(biencoder, holdout_pairs)
    _announce("4/5 the language model looks back")
    srlm = SelfRetrievalLM.from_components(options.backbone, retriever=biencoder, **LM_SETTINGS)
    holdout = standard_library("holdout")[: options.max_documents]
    tokens = [ids[: options.document_length] for ids in tokenize_texts([d.text for d in holdout], srlm.tokenizer)]
    perplexities = compare_methods(srlm, tokens, METHODS, scored_tokens=LM_SETTINGS["target_size"])
    mapped = next((i for i, document in enumerate(holdout) if document.name.startswith(MAPPED_DOCUMENT)), 0)
    (looked_back,) = compare_methods(srlm, [tokens[mapped]], ["dense"], scored_tokens=MAPPED_TOKENS)
    _announce("5/5 the repos are saved and loaded in a fresh process")
    save_repos({"biencoder": biencoder, "srlm": srlm}, output_dir)
    llara = type(llara).from_pretrained(output_dir / "llara")  # fine-tuning went on with the same weights
    reloaded = check_reload(llara, biencoder, srlm, holdout_pairs, tokens[0][:1600], output_dir)

    tables = _tables(retrieval, perplexities, reloaded)
    histories = {"LLaRA": llara_log, "Bi-encoder": biencoder_log}
    report = output_dir / "report.html"
    write_report(report, tables, histories, perplexities, (holdout[mapped].name, looked_back))
    for title, table in tables.items():
        print(f"\n{title}")
        print("\n".join("".join(f"{cell:<14}" for cell in row) for row in table))
    print(f"\n{time.perf_counter() - began:.0f} s; tables and plots in {report}; the repos are beside it.")
    return {"retrieval": retrieval, "perplexities": perplexities, "reloaded": reloaded}


def _announce(step: str) -> None:
    print(f"\n== {step}", flush=True)


def _tables(
    retrieval: dict[str, dict[str, float]],
    perplexities: list[MethodResult],
    reloaded: dict[str, tuple[float, float]],
) -> dict[str, list[list[str]]]:
    names = [f"mrr@{CUTOFF}", f"ndcg@{CUTOFF}", f"recall@{CUTOFF}"]
    base = perplexities[0].perplexity
    return {
        "Docstring -> code, held-out modules": [
            ["retriever", *(name.replace("mrr", "MRR").replace("ndcg", "nDCG") for name in names)],
            *([title, *(f"{metrics[name]:.3f}" for name in names)] for title, metrics in retrieval.items()),
        ],
        "Perplexity, held-out modules": [
            ["retrieval", "perplexity", "change"],
            *([r.method, f"{r.perplexity:.3f}", f"{r.perplexity / base - 1:+.1%}"] for r in perplexities),
        ],
        "Reloaded in a fresh process": [
            ["repo", "in memory", "reloaded"],
            *([name, f"{here:.6f}", f"{there:.6f}"] for name, (here, there) in reloaded.items()),
        ],
    }
