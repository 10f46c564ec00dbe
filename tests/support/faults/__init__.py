"""Runs of `lookback` that are killed, starved of space or of rights, and compared with those that were not."""
