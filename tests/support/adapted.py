"""Models of every family as a Trainer makes them of a folder, with or without an adapter, and what they compute."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tests.support.tiny import TEXT, random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.base.trainer import FamilyTrainer

SIZES = {"context_window_size": 32, "chunk_size": 8, "key_num": 1, "target_size": 16, "retrieval_method": "bm25"}
VOCABULARY = len(tiny_tokenizer())  # no more rows than tokens: those that are added need new ones
IDS = random_ids(1, 80) % (VOCABULARY - 3) + 3
_KINDS: dict[str, tuple[Any, Any, list[dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "biencoder": (
        BiEncoderTrainer, BiEncoderTrainingArguments, PAIRS, {"train_group_size": 2}, {"pooling": "mean"},
    ),
    "llara": (LlaraTrainer, LlaraTrainingArguments, PASSAGES, {}, {}),
    "srlm": (
        SelfRetrievalTrainer, SelfRetrievalTrainingArguments, [{"text": TEXT}],
        {"document_length": 48, "target_size": 16}, SIZES,
    ),
}  # fmt: skip


def plain_backbone(
    family: str, folder: Path, tied: bool = False, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerBase:
    """A plain backbone with its tokenizer, which comes back, in folder/lm."""
    tokenizer = tiny_tokenizer()
    backbone = tiny_backbone(lm_head=family != "biencoder", vocab_size=vocabulary, tie_word_embeddings=tied)
    backbone.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    return tokenizer


def trainer(
    family: str, folder: Path, model: Any, tokenizer: Any = None, peft_config: Any = None, **settings: Any
) -> FamilyTrainer:
    """The family's Trainer, of two steps into folder/run."""
    kind, make_arguments, rows, own, fields = _KINDS[family]
    is_plain = Path(model).name == "lm" if isinstance(model, str) else "lookback" not in model.config.model_type
    given = {"max_steps": 2, "learning_rate": 0.05, **own, **settings}
    return kind(
        model, arguments(make_arguments, folder / "run", **given), rows, processing_class=tokenizer,
        peft_config=peft_config, model_kwargs=fields if is_plain else {},
    )  # fmt: skip


def outputs(model: Any) -> torch.Tensor:
    """What the model computes of `IDS`: a loss, embeddings, or the last states of a prompt."""
    with torch.no_grad():
        if model.config.model_type == "lookback_srlm":
            return model.eval()(IDS, labels=IDS).loss
        if model.config.model_type == "lookback_biencoder":
            return model.eval()(input_ids=IDS).embeddings
        ids = torch.cat([IDS, torch.tensor([model.config.predict_prompt_ids])], dim=1)
        return model.eval()(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -10:]
