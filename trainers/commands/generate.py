"""`lookback generate`: continues a text of any length, streaming, and shows what was looked back at."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer, set_seed

from hub_cards.travelling.checks import check_choice
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.configuration_srlm import RETRIEVAL_METHODS
from modeling_srlm.tokenizers_srlm import text_ids

from ..data.plain_text import read_text
from ..data.readers import refuse_loose_link
from ..embedded import BACKBONE_FOLDER
from ..jobs.idle import refuse_idle, refuse_without
from ..models.load import load_srlm
from ..perplexity.chunks import chunk_texts, grid_start
from .loading import LookbackArguments
from .parsing import check_at_least, parse_arguments

METHODS = tuple(method for method in RETRIEVAL_METHODS if method != "oracle")  # which needs the text to come


@dataclass
class GenerateArguments:
    """The model, the prompt, and how to go on from it."""

    model: str = field(
        default=str(BACKBONE_FOLDER),
        metadata={"help": "Hub id or folder of a SelfRetrievalLM, or of any causal LM. Default: the embedded one."},
    )
    retrieval_method: str | None = field(
        default=None,
        metadata={"help": "no, recent, random, bm25, dense, self or hybrid. Default: that of the model's repo."},
    )
    prompt: str | None = field(default=None, metadata={"help": "The text to continue."})
    prompt_file: str | None = field(default=None, metadata={"help": "A file with it; - reads standard input."})
    max_new_tokens: int = field(default=128, metadata={"help": "Tokens to generate at most."})
    do_sample: bool = field(default=False, metadata={"help": "Sample; otherwise the likeliest token is taken."})
    temperature: float = field(default=1.0, metadata={"help": "Of sampling."})
    top_k: int = field(default=50, metadata={"help": "Sample among so many tokens; 0 for all."})
    top_p: float = field(default=1.0, metadata={"help": "Sample among the tokens that make up this probability."})
    repetition_penalty: float = field(default=1.0, metadata={"help": "Above 1: less of what was there already."})
    seed: int = field(default=0, metadata={"help": "Of sampling."})
    show_retrieval: bool = field(
        default=False, metadata={"help": "Print what each new chunk looked back at, to standard error."}
    )

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.prompt_file is None):
            raise ValueError("give one of --prompt and --prompt_file; --prompt_file - reads standard input.")
        if self.retrieval_method is not None:
            check_choice("--retrieval_method", self.retrieval_method, METHODS)
        if self.retrieval_method == "no":
            refuse_idle(self, ["show_retrieval"], "with --retrieval_method no")
        check_at_least(self, 1, "max_new_tokens")
        check_at_least(self, 0, "top_k", "seed")
        if self.seed >= 2**32:
            raise ValueError(f"--seed={self.seed} must be below {2**32}, as NumPy's are: give a smaller one.")
        if not (self.temperature > 0 and self.repetition_penalty > 0 and 0 < self.top_p <= 1):
            sampling = f"--temperature={self.temperature}, --top_p={self.top_p}"
            raise ValueError(
                f"{sampling} and --repetition_penalty={self.repetition_penalty} must be above 0, and top_p at most 1: "
                "change the one that is not."
            )
        if not self.do_sample:
            refuse_without(self, "do_sample", ("temperature", "top_k", "top_p", "seed"))


def read_prompt(arguments: GenerateArguments) -> str:
    """The text to continue; ValueError where it is empty."""
    if arguments.prompt is not None:
        text = arguments.prompt
    elif arguments.prompt_file == "-":
        text = _standard_input()
    else:
        file = Path(str(arguments.prompt_file))
        refuse_loose_link(file)
        if not file.is_file():
            raise ValueError(f"--prompt_file={str(file)!r} must be a file and is none: correct the path.")
        text = read_text(file)
    if not text:
        where = "" if arguments.prompt_file is None else f" of {arguments.prompt_file!r}"
        raise ValueError(f"the prompt{where} is empty and must have one token or more: give a text.")
    return text


def _standard_input() -> str:
    # The bytes themselves: the terminal's own encoding may be another, or let wrong ones pass.
    given = getattr(sys.stdin, "buffer", sys.stdin).read()
    try:
        return given.decode("utf-8-sig") if isinstance(given, bytes) else given
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 (byte {error.object[error.start]:#04x}): convert it.") from None


def generation_config(model: SelfRetrievalLM, arguments: GenerateArguments) -> GenerationConfig:
    """The model's own, with what the command line says."""
    names = ("max_new_tokens", "do_sample", "repetition_penalty")
    sampling = ("temperature", "top_k", "top_p") if arguments.do_sample else ()
    values: dict[str, Any] = {name: getattr(arguments, name) for name in (*names, *sampling)}
    own = model.generation_config.to_dict()
    if not arguments.do_sample:
        own = {name: value for name, value in own.items() if name not in ("temperature", "top_k", "top_p")}
    return GenerationConfig.from_dict({**own, "max_length": None, "return_dict_in_generate": True, **values})


def describe_retrievals(model: SelfRetrievalLM, prompt: torch.Tensor, output: Any) -> list[str]:
    """A line for each chunk that was looked back at: before which new token, which chunk, its score and its text."""
    config, lines, tokens = model.config, [], output.sequences[0].tolist()
    grid = grid_start(config, tokens, len(prompt))
    texts = chunk_texts(model.tokenizer, tokens, grid, config.chunk_size)
    for new, indices, scores in output.past_key_values.retrievals:
        lines.append(f"before new token {new}:" if (indices[0] >= 0).any() else f"before new token {new}: nothing")
        for chunk, score in zip(indices[0].tolist(), scores[0].tolist(), strict=True):
            if chunk >= 0:
                start, text = max(grid + chunk * config.chunk_size, 0), "".join(texts[chunk : chunk + 2])
                lines.append(f"  chunk {chunk} (tokens {start}-, score {score:.3f}): {text!r}")
    return lines


ARGUMENTS = (GenerateArguments, LookbackArguments)
EXAMPLES = r"""
# a text goes on, and what it looked back at is shown
lookback generate --prompt_file long.txt --show_retrieval
# your own model, sampling
lookback generate --model runs/srlm --prompt "Once upon a time" --do_sample --temperature 0.8
# from another program
cat long.txt | lookback generate --prompt_file - --max_new_tokens 64
"""


def main(argv: list[str]) -> None:
    """Streams the continuation to standard output."""
    arguments, loading = parse_arguments(argv, ARGUMENTS, "generate", __doc__)
    text = read_prompt(arguments)
    method = {} if arguments.retrieval_method is None else {"retrieval_method": arguments.retrieval_method}
    chosen = tuple(method.values())
    model = load_srlm(arguments.model, {**method, **loading.settings()}, methods=chosen, **loading.keywords())
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    set_seed(arguments.seed)
    ids = torch.tensor(text_ids(model.tokenizer, [text]), dtype=torch.long, device=model.device)
    streamer = TextStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    whole = torch.ones_like(ids)  # all of it is text, whatever a padding token there means
    output = model.generate(ids, generation_config(model, arguments), attention_mask=whole, streamer=streamer)
    if arguments.show_retrieval:
        print("\n".join(describe_retrievals(model, ids[0], output)), file=sys.stderr)
