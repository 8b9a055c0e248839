"""The kinds of input: how their images are listed and read."""
