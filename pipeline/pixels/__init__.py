"""Batching before the decoder; resampling, normalising and DCT after it."""
