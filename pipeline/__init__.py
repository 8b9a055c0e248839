"""Bytes -> tensors -> rows. Knows neither Ray nor network architectures."""
