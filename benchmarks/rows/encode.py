"""Passages embedded with `encode`, from text, against sentence-transformers on the same backbone and tokenizer.

512 passages, lengths log-normal with a mean of 80 tokens, 32 at a time on both sides.
"""

import torch

from ..biencoder_task import as_sentence_transformer, random_biencoder, random_lengths
from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Check, Outcome
from ..shapes import SHAPES, random_document

SIZES, SLOW_SIZES = {"cpu": ("small",), "cuda": ("1b",)}, {"cpu": ("medium",)}
MARKS = {**{(size, "cpu"): 1.25 for size in ("small", "medium", "minilm")}, ("1b", "cuda"): 1.0}
PASSAGES, BATCH = 512, 32
TOLERANCE = 1e-5


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES, SLOW_SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    vocabulary = SHAPES[size].vocabulary
    model = random_biencoder(size, options.device)
    other = as_sentence_transformer(model)
    texts = random_passages(16 if options.quick else PASSAGES, vocabulary)
    case = Comparison(
        "encode", size, lambda: model.encode(texts, "passage", batch_size=BATCH, show_progress=False),
        lambda: other.encode(texts, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False).float().cpu(),
        "sentence-transformers", same_embeddings, MARKS, {}, model,
    )  # fmt: skip
    return compare(case, options)


def random_passages(count: int, vocabulary: int) -> list[str]:
    """Texts of words of the word tokenizer, a token each."""
    lengths = random_lengths(count, seed=0).tolist()
    ids = random_document(sum(lengths), vocabulary)
    return [" ".join(f"w{number}" for number in part.tolist()) for part in ids.split(lengths)]


def same_embeddings(ours: torch.Tensor, theirs: torch.Tensor) -> Check:
    """Unit vectors within 1e-5 in each number."""
    apart = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("nan")
    return Check(apart <= TOLERANCE, f"embeddings at most {apart:.0e} apart")
