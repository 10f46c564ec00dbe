"""Model cards of the three families, and the way of a saved folder to and from the Hub."""

from .card import render_card, write_card
from .facts import CardFacts
from .inspection import Inspection, inspect
from .retries import TransferError
from .transfer import pull, push

__all__ = ["CardFacts", "Inspection", "TransferError", "inspect", "pull", "push", "render_card", "write_card"]
