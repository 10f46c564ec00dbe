"""Draws docs/images/looking_back.png: what a chunk costs and sees in each mode, from retrievals of a real text.

Run it with `python -m docs.draw_looking_back`.
"""

import argparse
from pathlib import Path

import matplotlib
import torch

from modeling_srlm import SelfRetrievalLM
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import standard_library
from trainers.perplexity.measure import tokenize_texts

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PICTURE = Path(__file__).parent / "images" / "looking_back.png"
CHUNKS, CHUNK_SIZE, WINDOW, KEYS = 40, 32, 256, 2
UNSEEN, KEPT, COMPUTED = range(3)
COLORS = ("#f6f6f6", "#4c72b0", "#d97c16")
TITLES = {False: "recomputed (exact)", True: "with kept states (reuse_states)"}


def cells(model: SelfRetrievalLM, tokens: torch.Tensor, reuse: bool) -> torch.Tensor:
    """(n, n) for the n chunks of `tokens`: row i has what chunk i sees, `KEPT` states or text `COMPUTED` for it."""
    config = model.config
    config.reuse_states, config.target_size = reuse, config.chunk_size
    with torch.no_grad():
        output = model(tokens[None], labels=tokens[None])
    count, window = len(tokens) // config.chunk_size, config.context_window_size // config.chunk_size
    seen = torch.full((count, count), UNSEEN)
    retrieved = dict(zip(output.target_indices[0].tolist(), output.retrieved_indices[0].tolist(), strict=True))
    for chunk in range(count):
        first = chunk - window if reuse else chunk - window + 1  # the exact window has the chunk itself in it
        values = [key + part for key in retrieved.get(chunk, []) if key >= 0 for part in (0, 1)]
        looked_at = [*values, *range(max(first, 0), chunk)]
        if reuse and first > 0:
            looked_at.append(0)  # the sinks
        seen[chunk, looked_at] = KEPT if reuse else COMPUTED
        seen[chunk, chunk] = COMPUTED
    return seen


def draw(modes: dict[bool, torch.Tensor]) -> Figure:
    """The two modes beside each other; rows are chunks that are read, columns those that they see."""
    figure, both = plt.subplots(1, 2, figsize=(10, 5.8), sharey=True)
    for axes, (reuse, seen) in zip(both, modes.items(), strict=True):
        _draw_mode(axes, seen, TITLES[reuse])
    both[0].set_ylabel("chunk that is read")
    handles = [Patch(color=COLORS[COMPUTED], label="computed for this chunk"), Patch(color=COLORS[KEPT], label="kept")]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def _draw_mode(axes: Axes, seen: torch.Tensor, title: str) -> None:
    axes.imshow(seen.numpy(), cmap=ListedColormap(COLORS), vmin=0, vmax=len(COLORS) - 1, interpolation="nearest")
    computed = (seen == COMPUTED).sum() * CHUNK_SIZE
    axes.set_title(f"{title}\n{computed:,} tokens computed for {len(seen) * CHUNK_SIZE:,}", fontsize=11)
    axes.set_xlabel("chunk that is seen")
    for side in axes.spines.values():
        side.set_visible(False)


def build() -> SelfRetrievalLM:
    """The embedded backbone, looking back by BM25 at sizes that are legible."""
    return SelfRetrievalLM.from_components(
        str(BACKBONE_FOLDER), retrieval_method="bm25", context_window_size=WINDOW, chunk_size=CHUNK_SIZE,
        key_num=KEYS, reuse_states=True,
    ).eval()  # fmt: skip


def main() -> None:
    """Draws the first chunks of a module of the standard library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE)
    output = parser.parse_args().output
    model = build()
    text = next(document.text for document in standard_library("holdout") if document.name == "difflib.py")
    tokens = tokenize_texts([text], model.tokenizer)[0][: CHUNKS * CHUNK_SIZE]
    draw({reuse: cells(model, tokens, reuse) for reuse in (False, True)}).savefig(output, dpi=90)
    print(output)


if __name__ == "__main__":
    main()
