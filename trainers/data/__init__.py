"""Rows of any source, and the tensors that batches of them become."""
