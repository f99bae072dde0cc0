"""Perception that chooses: what of an image is kept, and which code stands for it."""
