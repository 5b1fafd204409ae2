"""Heatmaps, erasing, saliency and pseudo-labels (method, sections 3.1 and 3.2 of the paper)."""
