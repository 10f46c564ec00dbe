"""The metric `retrieval_metrics`: see README.md."""
