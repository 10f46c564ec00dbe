"""Needles in long texts: what a language model still answers of a text, by the text's length and the fact's place."""
