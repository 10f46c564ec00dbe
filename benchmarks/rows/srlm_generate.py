"""1,000 new tokens behind a prompt of 8k, greedily, with retrieval at each chunk boundary."""

from modeling_srlm import SelfRetrievalLM

from ..compare import Comparison, compare
from ..generate_plain import PlainGenerator
from ..options import Options
from ..outcome import Check, Outcome
from ..shapes import SHAPES, TextHash, random_backbone, random_document, word_tokenizer

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
MARKS = {("small", "cpu"): 1.5, ("medium", "cpu"): 1.5, ("1b", "cuda"): 3.0}
LENGTHS = {"window": 2048, "chunk": 128, "keys": 8, "target": 1024}
QUICK_LENGTHS = {"window": 128, "chunk": 16, "keys": 2, "target": 64}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size; FlagEmbedding has no generation to compare with."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    prompt_length, new_tokens = (512, 100) if options.quick else (8192, 1000)
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    backbone, tokenizer = random_backbone(size, options.device), word_tokenizer(SHAPES[size].vocabulary)
    prompt = random_document(prompt_length, SHAPES[size].vocabulary).to(options.device)
    ours = SelfRetrievalLM.from_components(
        backbone, tokenizer, TextHash(), retrieval_method="dense", context_window_size=lengths["window"],
        chunk_size=lengths["chunk"], key_num=lengths["keys"], target_size=lengths["target"],
    )  # fmt: skip
    theirs = PlainGenerator(backbone, tokenizer, **lengths)
    case = Comparison(
        "srlm-generate", size,
        lambda: ours.generate(prompt[None], max_new_tokens=new_tokens, do_sample=False)[0].tolist(),
        lambda: theirs.generate(prompt, new_tokens).tolist(),
        theirs.name, same_tokens, MARKS, {}, backbone,
    )  # fmt: skip
    return compare(case, options)


def same_tokens(ours: list[int], theirs: list[int]) -> Check:
    """Token for token."""
    if ours == theirs:
        return Check(True, f"same {len(ours):,} tokens")
    shared = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return Check(False, f"tokens differ from {shared} on ({len(ours)} and {len(theirs)} in all)")
