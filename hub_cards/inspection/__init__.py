"""A look at a repo before anything of it is loaded."""
