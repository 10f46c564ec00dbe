"""Trains the embedded backbone: `python -m trainers.embedded.train_backbone --output_dir runs/backbone`.

A Llama-shaped LM of 4.2M parameters with its own byte-level BPE tokenizer, on the training part of the embedded
corpus: plain rows, and rows of [retrieved | window] so that the model learns to copy from what it looked back at.
Interrupt it at will: the same command goes on from the last checkpoint.
"""

import argparse
import json
import os
from pathlib import Path

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers import trainers as bpe_trainers
from tqdm.auto import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from .corpus import installed_packages, standard_library
from .muon import MuonWithAdamW
from .packing import plain_sequences, retrieval_sequences

VOCABULARY_SIZE = 4096
SEQUENCE_LENGTH = 1024
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 4,096 tokens in which every digit stands alone."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = bpe_trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **SPECIAL_TOKENS)


def build_rows(texts: list[str], tokenizer: PreTrainedTokenizerFast, seed: int) -> np.ndarray:
    """(n, 1024) uint16 token ids in random order: one pass over the plain text, one over the retrieval rows."""
    rng = np.random.default_rng(seed)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    documents = [np.array(document, dtype=np.uint16) for document in ids]
    rows = [plain_sequences(documents, SEQUENCE_LENGTH, tokenizer.eos_token_id, rng)]
    for document in tqdm(documents, desc="Packing [retrieved | window] rows"):
        rows.extend(row[None] for row in retrieval_sequences(document, SEQUENCE_LENGTH, rng))
    return rng.permutation(np.concatenate(rows))


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Hidden 256, 4 layers, 4 heads, tied embeddings: 4.2M parameters, 16.9 MB in float32."""
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=SEQUENCE_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def prepare(output_dir: Path, seed: int, package_chars: int) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """The tokenizer and the rows, made once and kept in `output_dir` so that a resumed run sees the same ones.

    Raises ValueError where those that are kept were made with other settings.
    """
    rows_file, settings_file = output_dir / "rows.npy", output_dir / "rows.json"
    settings = {"seed": seed, "package_chars": package_chars}
    if rows_file.exists():
        check_settings(rows_file, settings_file, settings)
        return PreTrainedTokenizerFast.from_pretrained(output_dir / "tokenizer"), np.load(rows_file)
    library = [document.text for document in standard_library("train")]
    tokenizer = train_tokenizer(library)
    packages = [document.text for document in installed_packages(package_chars, seed)]
    rows = build_rows(library + packages, tokenizer, seed)
    tokenizer.save_pretrained(output_dir / "tokenizer")
    np.save(output_dir / "rows.tmp.npy", rows)
    settings_file.write_text(json.dumps(settings), encoding="utf-8")
    os.replace(output_dir / "rows.tmp.npy", rows_file)
    return tokenizer, rows


def check_settings(rows_file: Path, settings_file: Path, settings: dict[str, int]) -> None:
    """ValueError for rows that are there, made with other settings; older ones do not say, and are taken."""
    made = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.exists() else settings
    for name, value in settings.items():
        if made[name] != value:
            raise ValueError(
                f"--{name}={value} must be as it was, {made[name]}, when {str(rows_file)!r} was made: give it so, or "
                "another --output_dir."
            )


def last_whole_checkpoint(run: Path) -> str | None:
    """The newest checkpoint whose state can be read, which is written last; a kill leaves half of a newer one."""
    return next((path for path in reversed(sort_checkpoints(str(run))) if is_whole(Path(path))), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def check_same_run(checkpoint: str, tokens: int, args: TrainingArguments) -> None:
    """ValueError where a checkpoint is of a run in which other rows, or other learning rates, would have come next."""
    state = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    fix = "give it as it was, or another --output_dir."
    if (batch := state.get("train_batch_size")) not in (None, args.train_batch_size):
        raise ValueError(
            f"--batch_size={args.train_batch_size} must be as it was, {batch}, when {checkpoint!r} was written: {fix}"
        )
    if (steps := state.get("max_steps")) not in (None, args.max_steps):
        raise ValueError(
            f"--tokens={tokens} makes {args.max_steps} steps and must make as many as it did, {steps}, when "
            f"{checkpoint!r} was written: {fix}"
        )


def training_arguments(options: argparse.Namespace, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=options.output_dir,
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(0.35 * steps)},
        warmup_steps=min(100, steps // 10),
        max_grad_norm=1.0,
        logging_steps=10,
        save_steps=100,
        save_total_limit=2,
        torch_compile=options.compile,
        bf16=torch.cuda.is_available(),
        seed=options.seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=24_000_000, help="tokens to train on")
    parser.add_argument("--batch_size", type=int, default=16, help="rows of 1,024 tokens a step")
    parser.add_argument("--package_chars", type=int, default=16_000_000, help="text taken from installed packages")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    set_seed(options.seed)
    args = training_arguments(options, options.tokens // (options.batch_size * SEQUENCE_LENGTH))
    checkpoint = last_whole_checkpoint(options.output_dir)
    if checkpoint is not None:
        check_same_run(checkpoint, options.tokens, args)
    tokenizer, rows = prepare(options.output_dir, options.seed, options.package_chars)
    print(f"{len(rows):,} rows, {rows.size:,} tokens")
    dataset = datasets.Dataset.from_dict({"input_ids": rows}).with_format("torch")
    dataset = dataset.map(lambda batch: {"labels": batch["input_ids"]}, batched=True)
    model = build_model(tokenizer)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=default_data_collator,
        processing_class=tokenizer,
        optimizers=(MuonWithAdamW.for_model(model), None),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    model.save_pretrained(options.output_dir / "backbone")
    tokenizer.save_pretrained(options.output_dir / "backbone")


if __name__ == "__main__":
    main()
