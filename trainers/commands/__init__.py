"""The sub-commands of `lookback`, one a file."""
