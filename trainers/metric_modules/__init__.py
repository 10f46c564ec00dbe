"""Modules for Hugging Face `evaluate`, one a folder; each folder is complete and can be a Space of its own."""
