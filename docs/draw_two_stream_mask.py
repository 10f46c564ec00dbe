"""Draws docs/images/two_stream_mask.png: what each token of a LLaRA row sees, from the model's own mask.

Run it with `python -m docs.draw_two_stream_mask`.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch

from modeling_llara import LlaraForPreTraining, build_row
from modeling_llara.masking_llara import (
    PREDICT,
    SUMMARIZE,
    find_span,
    find_streams,
    two_stream_mask,
    two_stream_positions,
)
from trainers.embedded import BACKBONE_FOLDER

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

PICTURE = Path(__file__).parent / "images" / "two_stream_mask.png"
TEXT = "open a tar archive"
SPECIAL_TOKENS = 3  # of each prompt, in place of 8: the row stays legible
STREAMS = ("passage", "summarize prompt", "predict prompt")
COLORS = ("#9aa9bb", "#d97c16", "#1f8a66")
TEXT_COLORS = ("#333333", "#a65a05", "#14664a")  # the same, dark enough to read
UNSEEN = "#f6f6f6"


class RowMask(NamedTuple):
    """A row of L tokens as the model reads it."""

    tokens: list[str]
    visible: torch.Tensor  # (L, L) bool: token i sees token j
    streams: torch.Tensor  # (L,) 0 passage, 1 summarize prompt, 2 predict prompt
    positions: torch.Tensor  # (L,)


def row_mask(model: LlaraForPreTraining, text: str) -> RowMask:
    """Mask, streams and positions that `model` gives the row of `text` with both prompts, no padding."""
    config = model.config
    ids = build_row(config, model.tokenizer(text, add_special_tokens=False)["input_ids"])["input_ids"]
    input_ids = torch.tensor([ids])
    mask = torch.ones_like(input_ids).bool()
    summarize = find_span(input_ids, mask, config.summarize_prompt_ids, config.num_summary_tokens)
    predict = find_span(input_ids, mask, config.predict_prompt_ids, config.num_predict_tokens)
    streams = find_streams(len(ids), summarize, predict)
    positions = two_stream_positions(mask, streams)
    # Under eager attention the mask is an additive (1, 1, L, L) tensor, 0 where a token is seen.
    additive = two_stream_mask(model.backbone.config, mask, streams, positions, model.backbone.dtype)
    if not isinstance(additive, torch.Tensor):
        raise ValueError("the model must have one mask for all layers and attn_implementation='eager': load it so.")
    tokens = [str(model.tokenizer.decode([token])) for token in ids]
    return RowMask(tokens, additive[0, 0] == 0, streams[0], positions[0])


def draw(row: RowMask) -> Figure:
    """The mask as a figure: rows are the tokens that look, columns those that are seen, coloured by stream."""
    length = len(row.tokens)
    figure, axes = plt.subplots(figsize=(10, 10))
    # 0 not seen; else the number of the looking token's stream plus one.
    cells = torch.where(row.visible, row.streams[:, None] + 1, 0)
    axes.imshow(
        cells.numpy(), cmap=ListedColormap([UNSEEN, *COLORS]), vmin=0, vmax=len(STREAMS), interpolation="nearest"
    )
    axes.set_xticks([i - 0.5 for i in range(length)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(length)], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    _label(axes, row)
    _outline_blind_spot(axes, row)
    axes.legend(
        handles=[Patch(color=color, label=f"seen by the {name}") for name, color in zip(STREAMS, COLORS, strict=True)],
        loc="upper right", fontsize=11, framealpha=1, borderpad=0.8,
    )  # fmt: skip
    figure.tight_layout()
    return figure


def _label(axes: Axes, row: RowMask) -> None:
    places = range(len(row.tokens))
    names = [token.strip() or "\u2423" for token in row.tokens]  # a lone space as an open box
    width = max(len(name) for name in names)
    rows = [f"{name:>{width}} {position:>3}" for name, position in zip(names, row.positions.tolist(), strict=True)]
    axes.set_yticks(places, rows, fontsize=8, family="monospace")
    axes.set_xticks(places, names, fontsize=8, family="monospace", rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, which="both")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, stream in zip(labels, row.streams.tolist(), strict=True):
            label.set_color(TEXT_COLORS[stream])
    axes.set_ylabel("token that looks, and its position", fontsize=11)
    axes.set_xlabel("token that is seen", fontsize=11)
    axes.xaxis.set_label_position("top")
    for side in axes.spines.values():
        side.set_visible(False)


def _outline_blind_spot(axes: Axes, row: RowMask) -> None:
    columns, rows = ((row.streams == stream).nonzero().flatten().tolist() for stream in (SUMMARIZE, PREDICT))
    left, top = columns[0] - 0.5, rows[0] - 0.5
    axes.add_patch(
        Rectangle(
            (left, top),
            len(columns),
            len(rows),
            fill=False,
            edgecolor="#b03030",
            linewidth=1.5,
            linestyle="--",
            clip_on=False,
        )
    )
    middle = (left + len(columns) / 2, top + len(rows) / 2)
    text = "the predict prompt does not see\nthe summarize prompt, and starts\nat the same position"
    axes.text(*middle, text, ha="center", va="center", fontsize=11, color="#b03030")


def main() -> None:
    """Draws the picture of the embedded backbone's row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE)
    output = parser.parse_args().output
    model = LlaraForPreTraining.from_backbone(
        BACKBONE_FOLDER,
        attn_implementation="eager",
        num_summary_tokens=SPECIAL_TOKENS,
        num_predict_tokens=SPECIAL_TOKENS,
    )
    draw(row_mask(model, TEXT)).savefig(output, dpi=90)
    print(output)


if __name__ == "__main__":
    main()
