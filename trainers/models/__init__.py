"""A model from whatever form it comes in: full, adapter, LLaRA, quantised."""
