"""Pages that hold all they need: one file, no network."""
