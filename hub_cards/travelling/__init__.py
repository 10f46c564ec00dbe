"""The one source of what every family's folder carries: `make copies` writes it there under the family's suffix.

The code of a model on the Hub brings all that it needs, so `modeling_*` cannot share a package.
"""

FAMILIES = ("biencoder", "llara", "srlm")
