"""Prohibitive segmentation learning, prediction and the dense CRF (section 3.3 of the paper)."""
