"""Losses that look at the target and at a sample of the other words."""
