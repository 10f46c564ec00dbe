"""`lookback perplexity`: how well a language model predicts documents or answers, without and with looking back.

Several processes share the work under `torchrun` or `accelerate launch`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import datasets

from hub_cards.travelling.checks import check_choice
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.configuration_srlm import RETRIEVAL_METHODS

from ..data.sources import check_source, load_tables
from ..embedded import BACKBONE_FOLDER
from ..jobs.idle import refuse_idle, refuse_without
from ..jobs.processes import place, start_processes
from ..models.components import OF_KEPT_STATES
from ..models.load import load_srlm
from ..pages.page import check_report_file
from ..perplexity.data import TokenizedDocument, read_chats, read_texts, tokenized
from ..perplexity.measure import MethodResult, compare_chats, compare_methods, count_scored, format_results
from ..perplexity.page import write_report
from ..perplexity.page_data import chat_page, describe, document_page
from .loading import LookbackArguments
from .parsing import check_at_least, parse_arguments


@dataclass
class PerplexityArguments:
    """What to score, with what. A setting that is not given is that of the model's repo."""

    model: str = field(
        default=str(BACKBONE_FOLDER),
        metadata={
            "help": "Hub id or folder of a SelfRetrievalLM, or of any causal LM. Default: the embedded backbone."
        },
    )
    task: Literal["document", "chat"] = field(
        default="document", metadata={"help": "Score documents, or the answers of chats behind retrieved turns."}
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "A text file, a folder of them, or rows with 'text' (a Hub id, too); for chats, rows with "
            "'history', 'query' and 'answers'. Default: the embedded hold-out (documents)."
        },
    )
    report: str | None = field(
        default=None, metadata={"help": "Also write a page of what was looked back at, such as report.html."}
    )
    methods: list[str] | None = field(
        default=None,
        metadata={"help": "Retrieval methods to compare, such as: no bm25 oracle. The first is the base."},
    )
    scored_tokens: int | None = field(
        default=None, metadata={"help": "Score the last so many tokens of each document. Default: all of it."}
    )
    max_documents: int | None = field(
        default=None, metadata={"help": "Score the first so many documents or chat rows."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Cut each document to its first so many tokens."})
    chunk_batch_size: int | None = field(default=None, metadata={"help": "Inputs that go through the model at once."})
    batch_size: int = field(default=8, metadata={"help": "Chat rows that are prepared at once."})

    def __post_init__(self) -> None:
        for name, least in (("max_documents", 1), ("max_length", 2)):  # it takes two tokens to score one
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name}={value} must be at least {least}: leave it out for all.")
        check_at_least(self, 1, "scored_tokens", "chunk_batch_size", "batch_size")
        for method in self.methods or ():
            check_choice("--methods", method, RETRIEVAL_METHODS)
        if self.data is not None:
            check_source(self.data)
        elif self.task == "chat":
            raise ValueError("--task='chat' needs --data: give rows with 'history', 'query' and 'answers'.")
        if self.task == "chat":
            refuse_idle(self, ("scored_tokens", "max_length"), "of a chat, whose whole answer is scored")
        else:
            refuse_without(self, "task chat", ["batch_size"])
        if self.report is not None:
            check_report_file(self.report, data=self.data)

    def settings(self) -> dict[str, int]:
        """Fields of `SelfRetrievalConfig` beside those of `LookbackArguments`."""
        return {} if self.chunk_batch_size is None else {"chunk_batch_size": self.chunk_batch_size}


def check_chat(loading: LookbackArguments) -> None:
    """ValueError for options of reading a document, which a chat is not: its turns and answer go through as one."""
    names = ("reuse_states", *OF_KEPT_STATES, "target_size")
    refuse_idle(loading, names, "of a chat, whose turns and answer are one input")


def reader(arguments: PerplexityArguments) -> Callable[[Any], Any]:
    """What gives, by the tokenizer, the chat rows or documents to score: as far as it goes without, they are read now.

    Raises ValueError, with the row, for one that cannot be scored.
    """
    if arguments.task == "chat":
        load_tables(str(arguments.data))
        return partial(read_chats, str(arguments.data), max_rows=arguments.max_documents)
    texts = read_texts(arguments.data, arguments.max_documents)
    return partial(tokenized, texts, max_length=arguments.max_length)


def print_results(model: SelfRetrievalLM, summary: str, results: Sequence[MethodResult]) -> None:
    """What was scored, the sizes, and the table of methods."""
    config = model.config
    print(f"\n{summary}")
    print(f"window {config.context_window_size}, chunk {config.chunk_size}, k {config.key_num}")
    print(format_results(results))


def score_documents(
    model: SelfRetrievalLM, methods: list[str], arguments: PerplexityArguments, documents: list[TokenizedDocument]
) -> None:
    """Prints what the documents' perplexity is under each method, and writes the report."""
    results = compare_methods(model, [document.tokens for document in documents], methods, arguments.scored_tokens)
    total = sum(len(document.tokens) for document in documents)
    summary = f"{len(documents)} documents of {total:,} tokens, {count_scored(results):,} of them scored"
    if place()[0] > 0:
        return
    print_results(model, summary, results)
    if arguments.report is not None:
        settings = describe(arguments.model, model, summary)
        write_report(arguments.report, document_page(model, documents, results, settings))


def score_chats(
    model: SelfRetrievalLM, methods: list[str], arguments: PerplexityArguments, chats: datasets.Dataset
) -> None:
    """Prints what the perplexity of the chats' answers is under each method, and writes the report."""
    results = compare_chats(model, chats, methods, arguments.batch_size)
    summary = f"{len(chats)} chat rows, {count_scored(results):,} tokens of answers scored"
    if place()[0] > 0:
        return
    print_results(model, summary, results)
    if arguments.report is not None:
        write_report(arguments.report, chat_page(chats, results, describe(arguments.model, model, summary)))


ARGUMENTS = (PerplexityArguments, LookbackArguments)
EXAMPLES = r"""
# the embedded model on the embedded hold-out
lookback perplexity --methods no bm25 --max_documents 3
# your text, and a page that shows what was looked back at
lookback perplexity --model runs/srlm --data folder --report report.html
# the answers of chats
lookback perplexity --task chat --model runs/srlm --data chats.jsonl
"""


def main(argv: list[str]) -> None:
    """Prints the perplexity of each method, the first one's as the base of the comparison, and writes the report."""
    arguments, loading = parse_arguments(argv, ARGUMENTS, "perplexity", __doc__)
    if arguments.task == "chat":
        check_chat(loading)
    state = start_processes()
    settings, chosen = {**arguments.settings(), **loading.settings()}, tuple(arguments.methods or ())
    read = reader(arguments)
    found: list[Any] = []

    def check(config: SelfRetrievalConfig, tokenizer: Any) -> None:
        if tokenizer is not None:
            found.append(read(tokenizer))

    model = load_srlm(arguments.model, settings, methods=chosen, check=check, **loading.keywords()).to(state.device)
    methods = arguments.methods or list(dict.fromkeys(["no", model.config.retrieval_method]))
    score = score_chats if arguments.task == "chat" else score_documents
    score(model, methods, arguments, found[0] if found else read(model.tokenizer))
    if arguments.report is not None and state.is_main_process:
        print(f"report: {arguments.report}")
