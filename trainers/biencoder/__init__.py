"""Training of the bi-encoder: rows, mixtures, batches, Trainer."""
