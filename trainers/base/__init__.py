"""What the three Trainers share."""
