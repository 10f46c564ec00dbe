"""The embedded default: a corpus that every machine has, and a small backbone trained on it."""
