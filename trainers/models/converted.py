"""A bi-encoder of whatever form a model that LLaRA adapted has."""

from typing import Any

from transformers import AutoTokenizer

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.prompts_llara import adapted_config, biencoder_keywords

from .adapted import is_adapter, load_adapted
from .convert import biencoder_from_llara, check_ends_open
from .kind import model_type
from .merging import merge_adapter


def load_as_biencoder(
    source: str,
    backbone: str | None = None,
    revision: str | None = None,
    backbone_revision: str | None = None,
    **settings: Any,
) -> BiEncoderModel:
    """A bi-encoder from a repo id or folder of a LLaRA model, of its LoRA, or of a plain backbone that LLaRA adapted.

    A plain backbone is one that `save_backbone` wrote, or a published checkpoint such as BAAI/LLARA-pretrain: its
    prompts are known by the special tokens of its tokenizer.

    Args:
        backbone, backbone_revision: for a LoRA, the model that it was trained on; default the one that it names.
        revision: branch, tag or commit of the source's repo.
        settings: fields of `BiEncoderConfig`.

    Raises ValueError for a model that LLaRA did not adapt, and for a LoRA whose backbone is not known.
    """
    hub = {} if revision is None else {"revision": revision}
    if is_adapter(source, revision):
        adapted = load_adapted(source, base=backbone, revision=revision, base_revision=backbone_revision)
        return biencoder_from_llara(merge_adapter(adapted), **settings)
    if model_type(source, hub) == LlaraConfig.model_type:
        return biencoder_from_llara(LlaraForPreTraining.from_pretrained(source, **hub), **settings)
    tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    config = adapted_config(tokenizer)
    if config is None:
        raise ValueError(
            f"{source!r} is no LLaRA model and its tokenizer has no special tokens of LLaRA's prompts: adapt it with "
            "`lookback pretrain`, or fine-tune it as it is with `lookback finetune`."
        )
    check_ends_open(tokenizer)
    settings = {**biencoder_keywords(config), **settings}
    return BiEncoderModel.from_backbone(source, tokenizer=tokenizer, **hub, **settings)
