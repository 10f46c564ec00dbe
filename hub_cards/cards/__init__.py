"""Model cards: facts, templates, and a person's edits kept."""
