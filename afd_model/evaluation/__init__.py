"""Measures what the AFD-Module does: true drift, statistics, and feature maps for figures."""
