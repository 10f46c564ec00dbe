"""What the demo did and found, in words that hold whatever the figures are."""

from ..pages.charts import MINUS
from .figures import Findings, Interval, Way, paired
from .retrieval import CUTOFF, reciprocal_ranks

LABELS = {
    "no": "nothing", "random": "random chunks", "bm25": "shared words (BM25)", "self": "its own states (self)",
    "dense": "the retriever (dense)", "hybrid": "retriever and BM25 (hybrid)", "oracle": "trying every chunk (oracle)",
}  # fmt: skip
MODES = {"exact": "", "reuse": "kept states: "}
BASE: Way = ("exact", "no", "before")


def label(way: Way) -> str:
    """A way of looking back as the tables name it."""
    mode, method, stage = way
    return MODES[mode] + LABELS[method] + (", tuned" if stage == "after" else "")


def sentences(found: Findings) -> list[str]:
    """Three sentences for a reader who knows none of it: what was done, what looking back was worth, what was learned.

    The first way of `dense` that was measured is what the second one tells of.
    """
    return [_done(found), _looking_back(found), _learned(found)]


def _done(found: Findings) -> str:
    config = found.srlm.config
    kinds = " and ".join(f"{len(documents)} of {kind}" for kind, documents in found.documents.items())
    return (
        f"{found.lm}, a language model of {found.lm_size / 1e6:.3g} million parameters, predicted the last "
        f"{found.chunks * config.chunk_size} tokens of held-out texts ({kinds}) through a window of "
        f"{config.context_window_size} tokens, and looked back at up to {config.key_num * config.value_size} tokens "
        "from earlier in the text, which were found in several ways."
    )


def _looking_back(found: Findings) -> str:
    ways = found.ways
    way = next(way for way in ways.by_way if way[:2] == ("exact", "dense"))
    change, texts = ways.change(way, BASE)
    alone, looking = (ways.perplexity(one, texts) for one in (BASE, way))
    others = {}
    for name in ("random", "bm25", "oracle"):
        other, read = ways.change(("exact", name, "before"), BASE)
        others[name] = changed(other, bounds=False) + (f" ({_texts(len(read))})" if len(read) < len(texts) else "")
    return (
        f"With what {found.retriever} found for it, its perplexity (among how many equally likely tokens it wavers) "
        f"was {looking:.2f} where it is {alone:.2f} with the window alone, {changed(change)}; with random chunks it "
        f"was {others['random']}, with those that share words {others['bm25']}, and with those that turn out best "
        f"when every one is tried, which takes knowing the answer, {others['oracle']}."
    )


def _texts(count: int) -> str:
    return f"tried on {count} text{'s' if count > 1 else ''}"


def _learned(found: Findings) -> str:
    before, after = (reciprocal_ranks(found.ranks[name]) for name in ("before", "after"))
    bm25 = sum(reciprocal_ranks(found.ranks["BM25"])) / len(before)
    mean_before, mean_after = (sum(one) / len(one) for one in (before, after))
    one = paired(after, before)
    said = (
        f"After it had learned from {sum(found.rows.values()):,} examples that the language model scored by how much "
        f"they help it, {found.retriever} found the code that belongs to a docstring with an MRR@{CUTOFF} (1 is "
        f"perfect) of {mean_after:.3f} where it had {mean_before:.3f}{_bounded(one)} and BM25, which counts words, "
        f"has {bm25:.3f}"
    )
    if not {("exact", "dense", "before"), ("exact", "dense", "after")} <= found.ways.by_way.keys():
        return f"{said}."
    change, _ = found.ways.change(("exact", "dense", "after"), ("exact", "dense", "before"))
    return f"{said}; the perplexity with what it finds was {changed(change)} than before."


def _bounded(one: Interval) -> str:
    bounds = f"{signed(one.low, percent=False)} to {signed(one.high, percent=False)}"
    return "" if one.low is None else f" (95 % interval of the difference {bounds}{_chance(one)})"


def changed(change: Interval, bounds: bool = True) -> str:
    """A relative change in words.

    >>> changed(Interval(-0.113, -0.14, -0.085), bounds=False), changed(Interval(0.02, -0.01, 0.05), bounds=False)
    ('11.3 % lower', '2.0 % higher')
    """
    words = f"{100 * abs(change.mean):.1f} % {'lower' if change.mean < 0 else 'higher'}"
    if not bounds or change.low is None:
        return words
    return f"{words} (95 % interval {signed(change.low)} to {signed(change.high)}{_chance(change)})"


def _chance(difference: Interval) -> str:
    """What is added where an interval holds zero."""
    return "" if difference.low is None or difference.sure() else ", which may be chance"


def signed(value: float | None, percent: bool = True) -> str:
    """ "-11.3 %" or "+0.031", with a minus sign as long as a plus; "" for None."""
    if value is None:
        return ""
    return (f"{100 * value:+.1f} %" if percent else f"{value:+.3f}").replace("-", MINUS)


def with_bounds(change: Interval, percent: bool = True) -> str:
    """ "-11.3 % (-14.0 % to -8.5 %)"."""
    bounds = "" if change.low is None else f" ({signed(change.low, percent)} to {signed(change.high, percent)})"
    return signed(change.mean, percent) + bounds
