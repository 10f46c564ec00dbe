"""Training of the self-retrieval language model."""
