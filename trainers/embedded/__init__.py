"""The embedded default: a corpus that every machine has, and a small backbone trained on it."""

from pathlib import Path

# A plain transformers checkpoint with its tokenizer; `train_backbone` made it.
BACKBONE_FOLDER = Path(__file__).parent / "backbone"
