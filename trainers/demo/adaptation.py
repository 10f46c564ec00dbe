"""Step 1: LLaRA adapts the embedded backbone, without labels."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from modeling_llara import LlaraForPreTraining

from ..embedded.corpus import Document
from ..llara.arguments import LlaraTrainingArguments
from ..llara.trainer import LlaraTrainer
from .settings import DemoArguments, show_loss, training_arguments

PASSAGE_TOKENS = 96


def passage_pairs(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, count: int, seed: int
) -> list[dict[str, str]]:
    """`count` rows (passage, its own words, the next passage's words), drawn over all the documents."""
    ids = tokenizer([document.text for document in documents], add_special_tokens=False, verbose=False)["input_ids"]
    starts = [
        (row, at) for row, text in enumerate(ids) for at in range(0, len(text) - 2 * PASSAGE_TOKENS, PASSAGE_TOKENS)
    ]
    chosen = random.Random(seed).sample(starts, count)
    passages = [ids[row][at : at + PASSAGE_TOKENS] for row, at in chosen]
    following = [ids[row][at + PASSAGE_TOKENS : at + 2 * PASSAGE_TOKENS] for row, at in chosen]
    texts = [tokenizer.batch_decode(part) for part in (passages, following)]
    return [
        {"input": passage, "output_summarize": passage, "output_predict": after}
        for passage, after in zip(*texts, strict=True)
        if passage.strip() and after.strip()
    ]


def adapt_backbone(
    options: DemoArguments, documents: Sequence[Document], **settings: Any
) -> tuple[LlaraForPreTraining, list[dict]]:
    """The adapted model and the logged losses of its training; `settings` are fields of `LlaraConfig`."""
    model = LlaraForPreTraining.from_backbone(options.backbone, **settings)
    rows = passage_pairs(documents, model.tokenizer, options.llara_steps * options.llara_batch_size, options.seed)
    arguments = training_arguments(
        LlaraTrainingArguments,
        options,
        Path(options.output_dir) / "llara",
        max_steps=options.llara_steps,
        per_device_train_batch_size=options.llara_batch_size,
        learning_rate=options.llara_learning_rate,
        max_length=2 * PASSAGE_TOKENS,
    )
    trainer = LlaraTrainer(model, arguments, train_dataset=rows)
    show_loss(trainer)
    trainer.train()
    return model, trainer.state.log_history
