"""Bytes to tensors to rows. Knows no Ray and no network architecture."""
