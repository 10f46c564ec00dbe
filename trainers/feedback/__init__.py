"""Teacher scores: how much a language model gains from each candidate."""
