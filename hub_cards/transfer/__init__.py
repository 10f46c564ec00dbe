"""A saved folder to the Hub and back."""
