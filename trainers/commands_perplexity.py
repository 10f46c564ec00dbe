"""`lookback perplexity`: how well a language model predicts documents, without and with looking back."""

from dataclasses import dataclass, field
from pathlib import Path

from modeling_srlm import SelfRetrievalLM

from .data_srlm import load_documents
from .embedded import BACKBONE_FOLDER
from .embedded.corpus import standard_library
from .loading_srlm import load_srlm
from .parsing import parse_arguments
from .perplexity import compare_methods, format_results, tokenize_texts


@dataclass
class PerplexityArguments:
    """What to score, with what. A setting that is not given is that of the model's repo."""

    model: str = field(
        default=str(BACKBONE_FOLDER),
        metadata={
            "help": "Hub id or folder of a SelfRetrievalLM, or of any causal LM. Default: the embedded backbone."
        },
    )
    data: str | None = field(
        default=None,
        metadata={"help": "A text file, a folder of them, or rows with 'text'. Default: the embedded hold-out."},
    )
    methods: list[str] | None = field(
        default=None, metadata={"help": "Retrieval methods to compare, such as: no bm25 dense oracle."}
    )
    retriever: str | None = field(default=None, metadata={"help": "Hub id or folder of a bi-encoder, for 'dense'."})
    scored_tokens: int | None = field(
        default=None, metadata={"help": "Score the last so many tokens of each document. Default: all of it."}
    )
    max_documents: int | None = field(default=None, metadata={"help": "Score the first so many documents."})
    max_length: int | None = field(default=None, metadata={"help": "Cut each document to its first so many tokens."})
    context_window_size: int | None = field(default=None, metadata={"help": "Tokens of the window."})
    chunk_size: int | None = field(default=None, metadata={"help": "Tokens of a chunk, the unit of retrieval."})
    key_num: int | None = field(default=None, metadata={"help": "Chunks retrieved for each target chunk."})
    target_size: int | None = field(default=None, metadata={"help": "Tokens scored against one window."})
    chunk_batch_size: int | None = field(default=None, metadata={"help": "Inputs that go through the model at once."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model's repo."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the model's repo; ours and transformers' need none."}
    )


SETTINGS = ("context_window_size", "chunk_size", "key_num", "target_size", "chunk_batch_size")


def load_model(arguments: PerplexityArguments) -> SelfRetrievalLM:
    """The SelfRetrievalLM of the arguments; a plain causal LM is wrapped into one."""
    given = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    return load_srlm(arguments.model, given, arguments.retriever, arguments.revision, arguments.trust_remote_code)


def read_texts(arguments: PerplexityArguments) -> list[str]:
    """The documents to score, as texts."""
    if arguments.data is None:
        texts = [document.text for document in standard_library("holdout")]
    else:
        texts = [row["text"] for row in load_documents(arguments.data)]
    return texts[: arguments.max_documents]


def main(argv: list[str]) -> None:
    """Prints the perplexity of each method, the first one's as the base of the comparison."""
    (arguments,) = parse_arguments(argv, [PerplexityArguments], "perplexity", __doc__ or "")
    if arguments.data is not None and not Path(arguments.data).exists():
        raise ValueError(f"--data {arguments.data!r} is neither a file nor a folder.")
    model = load_model(arguments)
    documents = [ids[: arguments.max_length] for ids in tokenize_texts(read_texts(arguments), model.tokenizer)]
    methods = arguments.methods or list(dict.fromkeys(["no", model.config.retrieval_method]))
    results = compare_methods(model, documents, methods, arguments.scored_tokens)
    config, total = model.config, sum(map(len, documents))
    scored = sum(output.num_scored_tokens or 0 for output in results[0].outputs)
    print(f"\n{len(documents)} documents of {total:,} tokens, {scored:,} of them scored")
    print(f"window {config.context_window_size}, chunk {config.chunk_size}, k {config.key_num}")
    print(format_results(results))
