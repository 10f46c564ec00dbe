"""The same in Python: `python examples/make_data.py runs/data`, then `python examples/finetune.py`."""

from trainers import BiEncoderTrainer, BiEncoderTrainingArguments

arguments = BiEncoderTrainingArguments(
    "runs/finetune_py", train_group_size=1, max_steps=64, per_device_train_batch_size=32, learning_rate=5e-4,
    eval_retrieval="runs/data/holdout", eval_strategy="steps", eval_steps=32, report_to="none",
)  # fmt: skip
settings = {"pooling": "mean", "temperature": 0.05, "max_length": 128}
trainer = BiEncoderTrainer("trainers/embedded/backbone", arguments, "runs/data/train.jsonl", model_kwargs=settings)
trainer.train()
trainer.save_model()
