"""Trainings that show whether a part of the loop helps: minutes each, on the embedded corpus, over several seeds."""
