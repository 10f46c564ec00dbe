"""A short LoRA tuning with kept states, for the `tuned` rows of `looking_back`.

Run it with `python -m benchmarks.experiments.looking_back_tuning --output runs/tuned`, and then
`python -m benchmarks.experiments.looking_back --modes tuned --adapter runs/tuned ...` at the same settings.
SmolLM2-135M trains on modules of the standard library that the table does not use; every token of a document after its
first chunk is scored. An interrupted run goes on from its last checkpoint. With `--method no` it is the control: the
same tuning without looking back.
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig
from transformers.trainer_utils import get_last_checkpoint

from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments
from trainers.embedded.corpus import standard_library

from .looking_back import METHODS, add_settings, build


def tune(options: argparse.Namespace) -> None:
    """Trains the adapter, and saves it to `options.output`."""
    model = build(options)
    model.config.reuse_states, model.config.retrieval_method = True, options.method
    model.config.target_size = None  # a block is half of the window
    arguments = SelfRetrievalTrainingArguments(
        str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        document_length=options.length,
        target_size=options.length - options.chunk_size,
        save_steps=max(options.steps // 4, 1),
        save_total_limit=1,
        logging_steps=1,
        seed=options.seed,
        report_to="none",
        dataloader_pin_memory=False,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
    )
    least = 4 * options.length  # characters: about a whole document
    texts = [{"text": document.text} for document in standard_library("train") if len(document.text) > least]
    adapter = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear")
    trainer = SelfRetrievalTrainer(model, arguments, texts, peft_config=adapter)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.output)) if options.output.is_dir() else None)
    trainer.save_model()


def main() -> None:
    """Trains, or goes on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--model", help="another language model than SmolLM2-135M: a folder or Hub id")
    parser.add_argument("--method", choices=METHODS, default="bm25")
    for name, value in (("steps", 60), ("accumulation", 4), ("rank", 8), ("seed", 42)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--bf16", action="store_true", help="train under autocast to bfloat16")
    add_settings(parser)
    tune(parser.parse_args())


if __name__ == "__main__":
    main()
