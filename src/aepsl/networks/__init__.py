"""Trunks, heads and their starting weights."""
