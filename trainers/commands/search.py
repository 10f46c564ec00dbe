"""`lookback search`: the texts of what `lookback encode` wrote that answer a query best.

The queries are embedded by the model that made the index, with its prompts; any other is refused. Each text is a
line: its id, its score and the text, tabs between.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from hub_cards.whole_files import written_whole
from modeling_biencoder import BiEncoderConfig
from modeling_biencoder.encoding_biencoder import prompt_affixes

from ..data.sources import check_source
from ..data.texts import IdentifiedTexts
from ..jobs.idle import refuse_without
from ..jobs.parts import DIGEST, check_absent, check_output
from ..models.identity import BACKBONE, TOKENIZER, configured, fingerprint
from ..models.load import load_biencoder
from ..retrieval.index import EmbeddingIndex, Hit, load_index
from ..retrieval.search import check_index
from ..retrieval.stored import files_of, is_file_of
from ..retrieval.tables import refuse_tables
from .loading import EmbedderArguments, WeightsArguments
from .parsing import check_at_least, given, parse_arguments

SHOWN = 200  # characters of a text in a line


@dataclass
class SearchArguments:
    """Where to look, for what, and how."""

    index: str = field(
        metadata={"help": "The file that `lookback encode --output` named (of several, that name, too)."}
    )
    query: list[str] = field(default_factory=list, metadata={"help": "What to look for; several, in quotes."})
    queries: str | None = field(
        default=None, metadata={"help": "Queries as rows with 'text' (and 'id'), or of any other file its lines."}
    )
    top_k: int = field(default=10, metadata={"help": "Texts to find for each query."})
    model: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the model that made the index. Default: as it says."}
    )
    task: str | None = field(default=None, metadata={"help": "Task whose prompt queries get. Default: the index's."})
    data: str | None = field(
        default=None,
        metadata={"help": "The texts that were embedded, to print them: a .parquet index has them itself."},
    )
    text_field: str = field(default="text", metadata={"help": "Field of the rows of --data that holds the text."})
    rescore: str | None = field(
        default=None,
        metadata={"help": "For a binary index: the same texts in another precision, to score what it finds."},
    )
    backend: Literal["auto", "torch", "faiss"] = field(
        default="auto", metadata={"help": "What searches: the result is the same."}
    )
    block_size: int = field(
        default=32768, metadata={"help": "Embeddings in memory at once; all others stay in the files."}
    )
    output: str | None = field(default=None, metadata={"help": "Write a row for each query to this .jsonl file."})
    overwrite: bool = field(default=False, metadata={"help": "Write over an output that is there."})
    batch_size: int = field(default=32, metadata={"help": "Queries that are embedded at once."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "top_k", "batch_size", "block_size")
        check_index(self.backend)
        for name in ("index", "rescore"):
            if (path := getattr(self, name)) is not None and not files_of(path):
                raise ValueError(f"--{name}={path!r} is no file: give the name that `lookback encode --output` got.")
        if not self.query and self.queries is None:
            raise ValueError("--query is missing: say what to look for, or name a file of --queries.")
        if blank := [query for query in self.query if not query.strip()]:
            raise ValueError(f"--query={blank[0]!r} must be a text: say what to look for.")
        for name in ("queries", "data"):
            check_source(getattr(self, name))
            refuse_tables(f"--{name}", getattr(self, name))
        if self.data is None and self.text_field != "text":
            raise ValueError(
                f"--text_field={self.text_field!r} is of the rows of --data: give these, or leave it out."
            )
        if self.output is None:
            refuse_without(self, "output", ["overwrite"])
        else:
            self._check_output(self.output)

    def _check_output(self, output: str) -> None:
        check_output(output, index=self.index, rescore=self.rescore, queries=self.queries, data=self.data)
        for name in ("index", "rescore"):
            if (path := getattr(self, name)) is not None and is_file_of(output, path):
                raise ValueError(f"--output={output!r} is a file of --{name}={path!r}: name another output.")
        check_absent(output, self.overwrite)


def read_queries(arguments: SearchArguments) -> tuple[list[str], list[str]]:
    """(ids, texts) of all queries; those of the command line have their number, rows without an id go on from it."""
    texts, ids = list(arguments.query), [str(number) for number in range(len(arguments.query))]
    if arguments.queries is not None:
        rows = IdentifiedTexts(arguments.queries, first=len(texts), unique=True)
        asked, of_rows = list(rows[:]), list(rows.ids())
        if (blank := next((number for number, text in enumerate(asked) if not text.strip()), None)) is not None:
            raise ValueError(f"{rows.rows.where(blank)}: the query is blank: say what to look for, or leave it out.")
        texts += asked
        if twice := [one for one in of_rows if one in ids]:
            raise ValueError(
                f"--queries={arguments.queries!r} has the id {twice[0]!r}, which is the number of a --query: give its "
                "rows other ids, or name all queries in one of the two."
            )
        ids += of_rows
    return ids, texts


def model_of(index: EmbeddingIndex, arguments: SearchArguments) -> str:
    """Hub id or folder of the model that made the index; ValueError where it is neither told nor to be found."""
    if arguments.model is not None:
        return arguments.model
    about = index.about
    beside = Path(arguments.index).resolve().parent / about.get("model_path", "")
    if "model_path" in about and beside.is_dir():
        return str(beside)
    if "/" in (named := about.get("model", "")):
        return named
    told = f"made by {named!r}, which is not where it was" if named else "of something that does not name its model"
    raise ValueError(f"--index={arguments.index!r} is {told}: give the folder or Hub id of that model as --model.")


def weights_of(index: EmbeddingIndex, weights: WeightsArguments) -> WeightsArguments:
    """What the index's own model became when it was made, where nothing else is given."""
    return WeightsArguments(**{**{name: index.about.get(name) for name in vars(weights)}, **given(weights)})


def check_settings(config: BiEncoderConfig, index: EmbeddingIndex, name: str, task: str | None) -> None:
    """ValueError for a model that is set to make other embeddings than those of the index, or lacks the task."""
    before, now = json.loads(index.about.get("encoding", "{}")), json.loads(json.dumps(configured(config)))
    names = [name for name in before if not name.startswith(DIGEST)]  # these `check_weights` looks at
    differ = [
        f"{name} was {before[name]!r} and is {now.get(name)!r}" for name in names if before[name] != now.get(name)
    ]
    if differ:
        raise ValueError(f"--model={name!r} is not set as it was when it made the index: {'; '.join(differ)}.")
    prompt_affixes(config.prompts, "query", task or index.about.get("task") or None, None)


def check_weights(model: Any, index: EmbeddingIndex, name: str) -> None:
    """ValueError for another model than the one that made the index, or one with another tokenizer."""
    before = json.loads(index.about.get("encoding", "{}"))
    others = [key for key, digest in fingerprint(model, model.tokenizer).items() if before.get(key, digest) != digest]
    if others:
        alone = {TOKENIZER: "another tokenizer", BACKBONE: "another configuration of its backbone"}
        what = alone.get(others[0], "other weights") if len(others) == 1 else "other weights"
        raise ValueError(
            f"--model={name!r} has {what} than the model {index.about.get('model')!r} that made the index: "
            "give that one, at its revision, or encode anew."
        )


def texts_of(index: EmbeddingIndex, arguments: SearchArguments) -> Any:
    """The texts of the index, or None; ValueError for data that are not those that were embedded."""
    if arguments.data is None:
        return index.texts
    texts = IdentifiedTexts(arguments.data, arguments.text_field)
    if index.about.get("texts", texts.digest) != texts.digest or len(texts) != len(index):
        raise ValueError(
            f"--data={arguments.data!r} holds other texts than were embedded: give those, or leave it out."
        )
    return texts


def print_hits(query: str | None, hits: list[Hit]) -> None:
    """The query, if there are several, and a line for each text."""
    if query is not None:
        print(f"# {' '.join(query.split())}")
    for hit in hits:
        text = "" if hit.text is None else " ".join(hit.text.split())
        one = " ".join(hit.id.replace("\t", " ").splitlines())  # each a line of three columns
        print(f"{one}\t{hit.score:.4f}\t{text if len(text) <= SHOWN else text[:SHOWN] + '...'}")


def write_hits(path: str, ids: list[str], queries: list[str], found: list[list[Hit]]) -> None:
    """A row for each query: its id, its text, and what was found."""
    with written_whole(path) as new, new.open("w", encoding="utf-8", newline="\n") as file:
        for one, query, hits in zip(ids, queries, found, strict=True):
            rows = [{key: value for key, value in hit._asdict().items() if value is not None} for hit in hits]
            file.write(json.dumps({"id": one, "query": query, "hits": rows}, ensure_ascii=False) + "\n")


ARGUMENTS = (SearchArguments, EmbedderArguments, WeightsArguments)
EXAMPLES = r"""
# the texts nearest to a question
lookback search --index corpus.parquet --query "How do I open a tar archive?"
# the best 3, with the model that made the index
lookback search --index corpus.parquet --model runs/finetune --query "a query" --top_k 3
# many queries, into a file
lookback search --index corpus.parquet --queries queries.jsonl --output hits.jsonl
"""


def main(argv: list[str]) -> None:
    """Prints what is found, and writes it where asked to."""
    arguments, loading, weights = parse_arguments(argv, ARGUMENTS, "search", __doc__)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    settings: dict[str, Any] = {"index": arguments.backend, "device": device, "passage_block": arguments.block_size}
    index = load_index(arguments.index, arguments.rescore, keep_in_memory=False, **settings)
    ids, queries = read_queries(arguments)
    index.texts = texts_of(index, arguments)
    name, keywords = model_of(index, arguments), {**loading.keywords(), **weights_of(index, weights).keywords()}
    if arguments.model is None and keywords["revision"] is None:
        keywords["revision"] = index.about.get("revision")
    fits = partial(check_settings, index=index, name=name, task=arguments.task)
    model = cast(Any, load_biencoder(name, check=fits, **keywords)).to(device)
    check_weights(model, index, name)
    found = index.find(model, queries, arguments.top_k, arguments.task, arguments.batch_size)
    for query, hits in zip(queries, found, strict=True):
        print_hits(query if len(queries) > 1 else None, hits)
    if arguments.output is not None:
        write_hits(arguments.output, ids, queries, found)
