"""LLaRA pretraining: rows of text, Trainer, and the words that an embedding stands for."""
