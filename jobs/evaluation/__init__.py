"""What `afd evaluate` is made of."""
