"""What the three methods compute, once more: slowly, by their definitions, without any code of the models."""
