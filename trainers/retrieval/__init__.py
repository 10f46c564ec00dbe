"""Finding passages, and how well they are found."""
