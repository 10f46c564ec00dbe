"""Benchmarks of the exact methods: each row against another implementation of the same definition.

`python -m benchmarks` runs all rows, `python -m benchmarks NAME` one. A row is a file in `benchmarks/rows`.
"""
