"""What `afd train` is made of."""
