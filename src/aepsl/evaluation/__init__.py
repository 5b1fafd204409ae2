"""Scores against the truth; the only package that may look at it."""
