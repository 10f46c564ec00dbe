"""Hard negatives for the bi-encoder's rows."""
