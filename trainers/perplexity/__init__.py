"""Perplexity with and without looking back, and the page that shows it."""
