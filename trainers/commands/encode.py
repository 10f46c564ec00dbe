"""`lookback encode`: embeddings of many texts in a .safetensors, .parquet or .npy file, with their ids.

Several processes share the work under `torchrun` or `accelerate launch`, and an interrupted run goes on where it was,
given the same command. Machines that share no more than a folder do so with --num_shards. No more than a block of
embeddings is in memory.
"""

import json
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from accelerate import PartialState

from hub_cards.transfer.folder_names import shared_name
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.encoding_biencoder import prompt_affixes
from modeling_biencoder.inputs_biencoder import check_truncate_dim

from ..data.sources import check_source
from ..data.texts import IdentifiedTexts, is_text_file
from ..jobs.idle import refuse_idle
from ..jobs.parts import PartFiles, check_new, check_output
from ..jobs.processes import on_main_process, start_processes
from ..jobs.shards import NUM_SHARDS_HELP, Shards, check_num_shards
from ..models.identity import dtype_settings, encoding_settings
from ..models.load import load_biencoder
from ..retrieval.embeddings import EmbeddingFiles, embed
from ..retrieval.sharded import ShardedEmbeddings, check_shards
from ..retrieval.stored import SUFFIXES, beside, files_of, ids_path, is_file_of
from ..retrieval.storing import names_of, write_embeddings
from ..retrieval.tables import refuse_tables
from .loading import EmbedderArguments, WeightsArguments
from .parsing import check_at_least, given, parse_arguments


@dataclass
class EncodeArguments:
    """What to embed, with what, and where the embeddings go."""

    model: str = field(metadata={"help": "Hub id or folder of a bi-encoder or a LLaRA model."})
    data: str = field(
        metadata={
            "help": "Rows with 'text' (and 'title', '_id' or 'id') as a data file, a folder or a Hub id; of any other "
            "file each line is a text."
        }
    )
    output: str = field(
        metadata={
            "help": "The file to write: .parquet (columns id, text, embedding), .safetensors or .npy (ids go to "
            ".ids.jsonl beside these)."
        }
    )
    role: Literal["query", "passage"] = field(default="passage", metadata={"help": "What the texts are: its prompt."})
    task: str | None = field(default=None, metadata={"help": "Task whose prompt to use. Default: 'default'."})
    text_field: str = field(default="text", metadata={"help": "Field of the rows that holds the text."})
    batch_size: int = field(default=32, metadata={"help": "Texts that are embedded at once."})
    truncate_dim: int | None = field(default=None, metadata={"help": "Keep the first so many numbers (Matryoshka)."})
    precision: Literal["float32", "float16", "int8", "binary"] = field(
        default="float32",
        metadata={
            "help": "Numbers of the file. int8: 255 steps from the least to the largest value of each number among "
            "all texts, which are kept in the file; binary: the signs, eight to a byte."
        },
    )
    shard_size: int | None = field(
        default=None, metadata={"help": "Texts of a file: writes x-00000-of-00003.parquet and so on for x.parquet."}
    )
    num_shards: int | None = field(default=None, metadata={"help": NUM_SHARDS_HELP + " Each becomes a file."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew over a finished or interrupted output."})

    def __post_init__(self) -> None:
        check_output(self.output, SUFFIXES, data=self.data)
        if is_file_of(self.data, self.output):
            raise ValueError(
                f"--data={self.data!r} is called as a file of --output={self.output!r} is: name another output."
            )
        if self.num_shards is not None:
            refuse_idle(self, ["shard_size"], "with --num_shards, which says how many files there are")
        check_num_shards(self)
        _refuse_others_ids(self.output)
        check_new(self.output, self.num_shards is not None, self.overwrite, written(self.output))
        check_source(self.data)
        refuse_tables("--data", self.data)
        check_at_least(self, 1, "batch_size", "shard_size")


def _refuse_others_ids(output: str) -> None:
    """ValueError where the ids of an output of another suffix lie in the file that this one's would."""
    path = Path(output)
    for suffix in SUFFIXES:
        other = path.with_suffix(suffix)
        if suffix == path.suffix or not {*beside(path)} & {*beside(other)} or not (others := files_of(other)):
            continue
        raise ValueError(
            f"--output={output!r} would write its ids over those of {others[0]}, which lie in {ids_path(others[0])}: "
            "name another output, or remove that one first."
        )


def written(output: str) -> list[Path]:
    """What is there of an output: its files, or ids and facts alone."""
    return [*files_of(output), *(file for file in beside(output) if file.exists())]


def run_settings(arguments: EncodeArguments, encoding: dict[str, Any], texts: IdentifiedTexts) -> dict[str, Any]:
    """Whatever the embeddings depend on: an interrupted run goes on only if all of it is as it was."""
    names = ("role", "task", "batch_size", "truncate_dim")
    asked = {name: getattr(arguments, name) for name in names}
    return {**asked, **encoding, "sha256 of the texts": texts.digest}


def about(
    arguments: EncodeArguments, encoding: dict[str, Any], texts: IdentifiedTexts, revision: str | None
) -> dict[str, str]:
    """What the output says of itself: by it `lookback search` embeds its queries."""
    facts = {
        "model": shared_name(arguments.model), "revision": revision, "model_path": _beside(arguments),
        "role": arguments.role, "task": arguments.task, "truncate_dim": arguments.truncate_dim,
        "texts": texts.digest, "encoding": json.dumps(encoding, ensure_ascii=False),
    }  # fmt: skip
    return {name: str(value) for name, value in facts.items() if value is not None}


def _beside(arguments: EncodeArguments) -> str | None:
    """The way from the output to the model's folder, where both lie below the working directory: it names no other."""
    model, folder, here = Path(arguments.model).resolve(), Path(arguments.output).resolve().parent, Path.cwd()
    if not model.is_dir() or not (model.is_relative_to(here) and folder.is_relative_to(here)):
        return None
    return Path(os.path.relpath(model, folder)).as_posix()


ARGUMENTS = (EncodeArguments, EmbedderArguments, WeightsArguments)
EXAMPLES = r"""
# a corpus, once, with its texts
lookback encode --model runs/finetune --data corpus.jsonl --output corpus.parquet
# the queries
lookback encode --model runs/finetune --data queries.jsonl --role query --output queries.safetensors
# the same line on any number of machines that see the folder; a quarter of the bytes
lookback encode --model runs/finetune --data corpus.jsonl --output /shared/corpus.parquet --precision int8 \
    --num_shards 64
"""


def main(argv: list[str]) -> None:
    """Embeds, writes the files and prints what is in them."""
    arguments, loading, weights = parse_arguments(argv, ARGUMENTS, "encode", __doc__)
    state = start_processes()
    check_field(arguments)
    texts = IdentifiedTexts(arguments.data, arguments.text_field, state.is_main_process, unique=True)
    if arguments.precision == "int8" and len(texts) < 2:
        raise ValueError("--precision='int8' needs two texts or more to know their range: take float16.")
    if arguments.num_shards is not None:
        check_shards(arguments.num_shards, len(texts), arguments.batch_size)
    fits = partial(check_fit, arguments=arguments)
    keywords = {**loading.keywords(), **weights.keywords()}
    model = cast(Any, load_biencoder(arguments.model, check=fits, **keywords)).to(state.device)
    began, run = time.perf_counter(), EncodeRun(arguments, model, texts, loading.revision, state, given(weights))
    files = run.write_shared() if arguments.num_shards is None else run.write_sharded()
    if files:
        print(f"{_summary(run.shape, arguments.precision, files)}, {time.perf_counter() - began:.1f} s")


class EncodeRun:
    """Texts to embed by a model, and what the files say of it."""

    def __init__(
        self,
        arguments: EncodeArguments,
        model: BiEncoderModel,
        texts: IdentifiedTexts,
        revision: str | None,
        state: PartialState,
        weights: dict[str, str],
    ):
        self.arguments, self.model, self.texts, self.state = arguments, model, texts, state
        encoding = encoding_settings(model)
        self.settings = {**run_settings(arguments, encoding, texts), **weights, **dtype_settings(model)}
        self.facts = {**about(arguments, encoding, texts, revision), **weights}
        self.shape = len(texts), arguments.truncate_dim or model.config.hidden_size

    def write_shared(self) -> list[Path]:
        """The processes of one launcher embed, the first one writes and returns the files."""
        arguments, state, texts = self.arguments, self.state, self.texts
        parts = PartFiles(arguments.output, over=lambda: bool(written(arguments.output)))
        on_main_process(state, lambda: parts.open(self.settings, arguments.overwrite))
        files = EmbeddingFiles(parts.folder, texts, arguments.batch_size)
        place = state.process_index, state.num_processes
        files.fill(self.model, arguments.task, *place, arguments.role, arguments.truncate_dim)
        state.wait_for_everyone()
        if not state.is_main_process:
            return []
        in_rows = texts if Path(arguments.output).suffix == ".parquet" else None
        names = write_embeddings(
            arguments.output, files.blocks, self.shape, texts.ids(), in_rows, arguments.precision, self.facts,
            arguments.shard_size,
        )  # fmt: skip
        parts.remove()
        return names

    def write_sharded(self) -> list[Path]:
        """Every process makes the shards that it claims, and returns all files when they are there."""
        arguments, facts = self.arguments, self.facts
        output, num_shards = Path(arguments.output), int(arguments.num_shards or 0)
        encode = partial(
            embed, model=self.model, role=arguments.role, task=arguments.task, batch_size=arguments.batch_size,
            truncate_dim=arguments.truncate_dim,
        )  # fmt: skip
        wanted = ShardedEmbeddings(
            output, self.texts, encode, arguments.batch_size, self.shape[1], arguments.precision, facts
        )
        files = names_of(output, num_shards)
        shards = Shards(output, num_shards, over=lambda: all(file.exists() for file in files))
        named = {name: facts.get(name) for name in ("model", "revision", "model_path")}  # as each file has them
        shards.open({**self.settings, **named, "precision": arguments.precision})
        wanted.write(shards, self.state.is_main_process)
        shards.remove()
        return files


def check_field(arguments: EncodeArguments) -> None:
    """ValueError for the field of rows where there are none."""
    if is_text_file(arguments.data):
        refuse_idle(arguments, ["text_field"], f"for --data={arguments.data!r}, whose lines are the texts")


def check_fit(config: BiEncoderConfig, arguments: EncodeArguments) -> None:
    """ValueError for a width or a task that the model does not have."""
    check_truncate_dim(arguments.truncate_dim, config.embedding_dims, config.hidden_size)
    prompt_affixes(config.prompts, arguments.role, arguments.task, None)


def _summary(shape: tuple[int, int], precision: str, written: list[Path]) -> str:
    first = written[0]
    where = str(first) if len(written) == 1 else f"{len(written)} files, {first} and so on"
    ids = "" if first.suffix == ".parquet" else f", ids in {ids_path(first)}" + (" ..." if len(written) > 1 else "")
    kind = "" if precision == "float32" else f" ({precision})"
    return f"{shape[0]:,} embeddings of {shape[1]} numbers{kind} in {where}{ids}"
