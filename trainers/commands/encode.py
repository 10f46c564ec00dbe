"""`lookback encode`: embeddings of many texts in a safetensors file, with their ids beside it.

Several processes share the work under `torchrun` or `accelerate launch`, and an interrupted run goes on where it was,
given the same command. No more than a block of embeddings is in memory.
"""

import shutil
import time
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from hub_cards.transfer.folder_names import shared_name
from modeling_biencoder import BiEncoderModel
from modeling_biencoder.inputs_biencoder import check_truncate_dim

from ..data.sources import check_source
from ..data.texts import IdentifiedTexts
from ..jobs.parts import PartFiles, check_new, check_output
from ..jobs.processes import on_main_process, start_processes
from ..models.load import encoding_settings, load_biencoder
from ..retrieval.embeddings import EmbeddingFiles, ids_path, write_embeddings
from .parsing import EmbedderArguments, parse_arguments


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
    output: str = field(metadata={"help": "The .safetensors file to write; ids go to .ids.jsonl beside it."})
    role: Literal["query", "passage"] = field(default="passage", metadata={"help": "What the texts are: its prompt."})
    task: str | None = field(default=None, metadata={"help": "Task whose prompt to use. Default: 'default'."})
    text_field: str = field(default="text", metadata={"help": "Field of the rows that holds the text."})
    batch_size: int = field(default=32, metadata={"help": "Texts that are embedded at once."})
    truncate_dim: int | None = field(default=None, metadata={"help": "Keep the first so many numbers (Matryoshka)."})
    dtype: Literal["float32", "float16"] = field(default="float32", metadata={"help": "Numbers of the file."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew over a finished or interrupted output."})

    def __post_init__(self) -> None:
        check_output(self.output, ".safetensors")
        if not self.overwrite:
            check_new(self.output)
        check_source(self.data)
        if self.batch_size < 1:
            raise ValueError(f"--batch_size={self.batch_size} must be at least 1: give a number of texts.")


def run_settings(arguments: EncodeArguments, model: BiEncoderModel, texts: IdentifiedTexts) -> dict[str, Any]:
    """Whatever the embeddings depend on: an interrupted run goes on only if all of it is as it was."""
    names = ("role", "task", "batch_size", "truncate_dim")
    asked = {name: getattr(arguments, name) for name in names}
    return {**asked, **encoding_settings(model), "sha256 of the texts": texts.digest}


def main(argv: list[str]) -> None:
    """Embeds, writes both files and prints what is in them."""
    arguments, loading = parse_arguments(argv, [EncodeArguments, EmbedderArguments], "encode", __doc__ or "")
    state = start_processes()
    model = cast(Any, load_biencoder(arguments.model, **loading.keywords())).to(state.device)
    check_truncate_dim(arguments.truncate_dim, model.config.embedding_dims, model.config.hidden_size)
    model.encode([], arguments.role, arguments.task)  # an unknown task is an error now
    texts = IdentifiedTexts(arguments.data, arguments.text_field, state.is_main_process)
    parts, settings = PartFiles(arguments.output), run_settings(arguments, model, texts)
    on_main_process(state, lambda: parts.open(settings, arguments.overwrite))
    began = time.perf_counter()
    files = EmbeddingFiles(parts.folder, texts, arguments.batch_size)
    files.fill(model, arguments.task, state.process_index, state.num_processes, arguments.role, arguments.truncate_dim)
    state.wait_for_everyone()
    if state.is_main_process:
        shape = (len(texts), arguments.truncate_dim or model.config.hidden_size)
        facts = {"model": shared_name(arguments.model), "role": arguments.role, "task": arguments.task or ""}
        write_embeddings(arguments.output, files.blocks(), shape, texts.ids(), arguments.dtype, facts)
        shutil.rmtree(parts.folder)
        print(
            f"{shape[0]:,} embeddings of {shape[1]} numbers in {arguments.output}, ids in "
            f"{ids_path(arguments.output)}, {time.perf_counter() - began:.1f} s"
        )
