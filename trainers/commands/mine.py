"""`lookback mine`: hard negatives for rows of query and positives, from BM25, a bi-encoder or both.

Several processes share the work under `torchrun` or `accelerate launch`, and an interrupted run goes on where it was,
given the same command; so do machines that share no more than a folder, with --num_shards. The rows do not depend on
any of it.
"""

import time
from functools import partial
from typing import Any

import torch

from modeling_biencoder import BiEncoderModel

from ..jobs.idle import refuse_idle
from ..jobs.processes import start_processes
from ..mining.mine import mine_to_file
from ..mining.settings import MineArguments, MiningSettings
from ..models.load import load_biencoder
from .loading import EmbedderArguments, WeightsArguments
from .parsing import parse_arguments

ARGUMENTS = (MineArguments, MiningSettings, EmbedderArguments, WeightsArguments)
EXAMPLES = r"""
# by BM25 alone
lookback mine --data pairs.jsonl --retriever bm25 --output mined.jsonl
# by a first stage's model, from a corpus; the same line on any number of machines that see the folder
lookback mine --data pairs.jsonl --corpus corpus.jsonl --model runs/finetune --output /shared/mined.jsonl \
    --num_shards 64
# nothing that scores nearly as well as the positive
lookback mine --data pairs.jsonl --model runs/finetune --relative_margin 0.05 --output mined.jsonl
"""


def load_retriever(
    arguments: MineArguments,
    settings: MiningSettings,
    loading: EmbedderArguments,
    weights: WeightsArguments,
    device: torch.device,
) -> BiEncoderModel:
    """The bi-encoder, once the data were read."""
    where = {**loading.keywords(), **weights.keywords()}
    model: Any = load_biencoder(str(arguments.model), check=settings.check_task, **where)
    return model.to(device)


def main(argv: list[str]) -> None:
    """Mines, writes the rows and prints how many there are, and how many lack negatives."""
    arguments, settings, loading, weights = parse_arguments(argv, ARGUMENTS, "mine", __doc__)
    if settings.retriever == "bm25":
        for given in (loading, weights):
            refuse_idle(given, vars(given), "with --retriever bm25, which loads no model")
    settings.check_model(arguments.model is not None)
    state = start_processes()
    late = partial(load_retriever, arguments, settings, loading, weights, state.device)
    model = None if arguments.model is None else late
    began = time.perf_counter()
    where = arguments.output, arguments.overwrite
    mined = mine_to_file(arguments.data, arguments.corpus, model, settings, *where, num_shards=arguments.num_shards)
    if state.is_main_process:
        resumed = f", {mined.resumed} of {mined.groups} groups by an earlier run" if mined.resumed else ""
        print(f"{mined.rows:,} rows in {arguments.output}, {time.perf_counter() - began:.1f} s{resumed}")
        print(f"{mined.short:,} with fewer than {settings.num_negatives} negatives")
        print(f"{mined.empty:,} without any, {'kept' if settings.keep_empty else 'left out'}")
