"""The pictures of `afd explain` and `afd evaluate --figures`."""
