"""Figures of `afd explain` and `afd evaluate --figures`."""
