"""A proof, when LLaRA takes a backbone, that its attention does what the two-stream mask and the positions say."""

import torch
from transformers import PreTrainedModel

from .decoder_llara import logits_head, run_decoder
from .masking_llara import PREDICT, SUMMARIZE, check_attention
from .placement_llara import input_device

NUM_SUMMARIZE = 8  # between the passage and the predict token: what counts by index is so far off
_ROW = [3, 4, *[5] * NUM_SUMMARIZE, 6]  # passage, passage, summarize, ..., predict
_OTHER = [3, 4, *[7] * NUM_SUMMARIZE, 6]  # the same, with other summarize tokens
_SHORT = (2, 3)  # windows that are shorter than such a row, of which a backbone has one at most


@torch.no_grad()
def check_backbone(backbone: PreTrainedModel) -> None:
    """Prove on short rows that the two-stream mask and positions work, and the logits are read as the backbone does.

    Raises:
        ValueError: when the backbone cannot take the mask, a summarize token reaches the predict stream, plain
            causal logits are not the backbone's own (an encoder, or a logit scaling unknown here), a token's logits
            depend on its index, not on its position (padding or the other prompt would change them), or its layers
            look further back than the window of its configuration.
    """
    check_attention(backbone.config)
    if input_device(backbone).type == "meta":
        return
    name, was_training = backbone.config.model_type, backbone.training
    backbone.eval()
    try:
        states, plain = _run_rows(backbone), _run_plainly(backbone)
        ours = logits_head(backbone)(states)
        heeds = _heeds_window(backbone, plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"backbone type {name!r} does not take a 4-D attention mask and position ids: use one that does, such as "
            "Llama, Qwen, Mistral, Gemma, GPT-2 or OPT."
        ) from error
    finally:
        backbone.train(was_training)
    if not (states.isfinite().all() and plain.isfinite().all()):
        raise ValueError(
            f"the backbone ({name!r}) gives NaN or infinity: its weights hold some (a run that diverged), or its "
            "dtype overflows. Take another checkpoint, or load it with dtype=torch.float32."
        )
    if not heeds:
        raise ValueError(
            f"backbone type {name!r} has sliding_window={backbone.config.sliding_window} in its configuration, but "
            "its layers look further back: load it, set its config.sliding_window to its max_position_embeddings, "
            "and give the model itself."
        )
    rounding = 1e-4 if backbone.dtype == torch.float32 else 0.05
    _check_streams(states, name, rounding)
    _check_causal(ours, plain, name, rounding)
    _check_positions(ours, plain, name, rounding)


def _run_rows(backbone: PreTrainedModel) -> torch.Tensor:
    """(4, L, d) states: both rows, the first once more behind padding, and as that but positioned by index."""
    length = len(_ROW)
    ids = torch.tensor([_ROW, _OTHER, _ROW, _ROW], device=input_device(backbone))
    ids = torch.cat([ids, ids.roll(length, 1)], 1)
    mask = torch.ones_like(ids).bool()
    mask[:2, length:] = mask[2:, :length] = False  # right padding of the first two, left padding of the others
    streams = torch.tensor([0, 0, *[SUMMARIZE] * NUM_SUMMARIZE, PREDICT] * 2, device=ids.device).expand_as(ids) * mask
    indices = torch.arange(2 * length, device=ids.device)
    skipped = NUM_SUMMARIZE * (streams == PREDICT)
    positions = (mask.long().cumsum(1) - 1 - skipped).clamp(min=0)
    positions[3] = indices  # what a backbone that takes no positions would make of the third row
    states = run_decoder(backbone, ids, mask, streams, positions).last_hidden_state
    return states[mask].view(len(ids), length, -1)


def _run_plainly(backbone: PreTrainedModel) -> torch.Tensor:
    """(L, V) logits of the backbone's own causal pass: passage and summarize tokens, and the predict token alone."""
    predict_alone = [*_ROW[:2], *_ROW[-1:] * (NUM_SUMMARIZE + 1)]
    ids = torch.tensor([_ROW, predict_alone], device=input_device(backbone))
    logits = backbone(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return torch.cat([logits[0, :-1], logits[1, 2:3]])


def _heeds_window(backbone: PreTrainedModel, plain: torch.Tensor) -> bool:
    """Whether the window of the configuration, from which the two-stream mask is made, is that of the layers.

    Or there is none, or one as long as any row. `plain`: of `_run_plainly`, which other windows have to change.
    """
    config = backbone.config
    values = vars(config)
    window, positions = values.get("sliding_window"), values.get("max_position_embeddings")
    slides = "sliding_attention" in (values.get("layer_types") or ("sliding_attention",))
    if not slides or window is None or (positions is not None and window >= positions):
        return True
    config.sliding_window = next(short for short in _SHORT if short != window)
    try:
        return not torch.equal(_run_plainly(backbone), plain)
    finally:
        config.sliding_window = window


def _check_streams(states: torch.Tensor, name: str, rounding: float) -> None:
    change = (states[0] - states[1]).abs().amax(-1)  # (L,): only the summarize tokens may differ
    if not change[[0, 1, -1]].max() < rounding * change[2:-1].max():
        raise ValueError(
            f"in backbone type {name!r} a summarize token reaches tokens that must not see it: use a causal decoder "
            "with softmax attention that takes a custom mask."
        )


def _check_causal(ours: torch.Tensor, plain: torch.Tensor, name: str, rounding: float) -> None:
    difference = (ours[0] - plain)[:-1].abs().max()  # up to the predict token as in plain causal attention
    if not difference <= 10 * rounding * plain.abs().max():
        raise ValueError(
            f"backbone type {name!r} is not causal by itself, or changes its logits behind the output embeddings in a "
            "way not known here: use a causal decoder, or add the change to scale_logits in decoder_llara.py."
        )


def _check_positions(ours: torch.Tensor, plain: torch.Tensor, name: str, rounding: float) -> None:
    """The predict token as in a row of its own, and all tokens as without the padding before them."""
    noise = rounding * _spread(plain)
    wrong = max(_spread(ours[0] - plain), _spread(ours[2] - plain))
    by_index = _spread(ours[3] - plain)
    # Half precision, and layers of experts, may differ by much; but not as much as with positions that are wrong.
    if (wrong > noise and wrong > by_index / 2) or wrong > 10 * noise:
        raise ValueError(
            f"backbone type {name!r} counts a token's place by its index, whatever position_ids say, so padding and "
            "the other prompt would change what it gives: use one that takes position ids, such as Llama, Qwen, "
            "Mistral, Gemma, GPT-2 or OPT."
        )


def _spread(logits: torch.Tensor) -> float:
    """Size of (L, V) logits without what all words have alike, which no softmax sees."""
    return float((logits - logits.mean(-1, keepdim=True)).float().norm())
