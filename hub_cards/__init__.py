"""Model cards of the three families, and the way of a saved folder to and from the Hub."""

from .cards.card import render_card, write_card
from .cards.facts import CardFacts
from .inspection.inspection import Inspection, inspect
from .transfer.retries import TransferError
from .transfer.transfer import pull, push

__all__ = ["CardFacts", "Inspection", "TransferError", "inspect", "pull", "push", "render_card", "write_card"]
