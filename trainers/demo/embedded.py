"""`lookback demo`: the loop on the model and the corpus that come with the package."""

from collections.abc import Sequence
from pathlib import Path

import torch

from modeling_llara import build_row
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.tokenizers_srlm import text_ids

from ..embedded import BACKBONE_FOLDER
from ..embedded.corpus import Document, code_pairs, standard_library
from ..perplexity.data import TokenizedDocument
from ..perplexity.measure import compare_methods
from .adaptation import adapt_backbone
from .feedback import chunk_rows, code_rows
from .figures import Findings, Reading, readings_of
from .journal import cpu_seconds
from .reload import check_reload, save_repos
from .retrieval import finetune_biencoder, ranks, to_biencoder
from .settings import LM_SETTINGS, DemoArguments, announce

METHODS = ("no", "random", "bm25", "dense", "oracle")
ORACLE_DOCUMENTS = 5  # every key is tried, which takes longer than all else together
RETRIEVER = "the bi-encoder"


def run_embedded(options: DemoArguments) -> Findings:
    """The whole loop on one backbone."""
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    documents = [document for document in standard_library("train") if "test" not in document.name]
    pairs, holdout_pairs = code_pairs("train", options.code_pairs), code_pairs("holdout", options.holdout_pairs)
    announce(1, "LLaRA adapts the backbone")
    llara, llara_log = adapt_backbone(options, documents)
    save_repos({"llara": llara}, output_dir)
    announce(2, "the language model scores what helps it")
    lm = SelfRetrievalLM.from_components(options.backbone, retrieval_method="bm25", **LM_SETTINGS)
    rows = {
        "code": code_rows(lm, pairs, options.group_size - 1),
        "chunks": chunk_rows(lm, documents, options.feedback_documents, options.document_length, options.seed),
    }
    announce(3, f"the bi-encoder learns from {sum(map(len, rows.values())):,} scored rows")
    biencoder = to_biencoder(llara)
    found = {"BM25": ranks(None, holdout_pairs), "before": ranks(biencoder, holdout_pairs)}
    log = finetune_biencoder(biencoder, rows["code"] + rows["chunks"], options)
    found["after"] = ranks(biencoder, holdout_pairs)
    announce(4, "the language model looks back")
    srlm = SelfRetrievalLM.from_components(options.backbone, retriever=biencoder, **LM_SETTINGS)
    holdout = tokenized(srlm, standard_library("holdout")[: options.max_documents], options.document_length)
    readings = [reading for method in METHODS for reading in read(srlm, holdout, method)]
    announce(5, "the repos are saved and loaded in a fresh process")
    save_repos({"biencoder": biencoder, "srlm": srlm}, output_dir)
    llara = type(llara).from_pretrained(output_dir / "llara")  # fine-tuning went on with the same weights
    passage = llara.tokenizer(holdout_pairs[0].passage, add_special_tokens=False)["input_ids"][:64]
    reloaded = check_reload(
        {"llara": llara, "biencoder": biencoder, "srlm": srlm}, holdout[0].tokens[:1600], output_dir,
        LM_SETTINGS["target_size"], row=build_row(llara.config, passage),
        texts=[pair.query for pair in holdout_pairs[:8]],
    )  # fmt: skip
    return Findings(
        lm=_name(options.backbone), lm_size=srlm.language_model.num_parameters(), retriever=RETRIEVER,
        readings=readings, documents={"code": holdout}, chunks=LM_SETTINGS["target_size"] // LM_SETTINGS["chunk_size"],
        ranks=found, histories={"LLaRA": llara_log, RETRIEVER: log},
        rows={name: len(part) for name, part in rows.items()}, reloaded=reloaded, srlm=srlm,
    )  # fmt: skip


def tokenized(lm: SelfRetrievalLM, documents: Sequence[Document], length: int) -> list[TokenizedDocument]:
    """The documents, each cut to its first `length` tokens."""
    ids = text_ids(lm.tokenizer, [document.text for document in documents])
    return [
        TokenizedDocument(document.name, torch.tensor(row[:length]))
        for document, row in zip(documents, ids, strict=True)
    ]


def read(srlm: SelfRetrievalLM, documents: Sequence[TokenizedDocument], method: str) -> list[Reading]:
    """How the last tokens of each document are predicted in one way."""
    documents = documents[:ORACLE_DOCUMENTS] if method == "oracle" else documents
    began = cpu_seconds()
    scored = LM_SETTINGS["target_size"]
    (result,) = compare_methods(srlm, [document.tokens for document in documents], [method], scored)
    seconds = (cpu_seconds() - began) / len(documents)
    place = {"kind": "code", "mode": "exact", "method": method, "stage": "after" if method == "dense" else "before"}
    return [
        reading
        for document, output in zip(documents, result.outputs, strict=True)
        for reading in readings_of(output, [document.name], seconds, **place)
    ]


def _name(backbone: str) -> str:
    return "Lookback's own small model" if backbone == str(BACKBONE_FOLDER) else Path(backbone).name
