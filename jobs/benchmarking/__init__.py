"""What `afd benchmark` is made of."""
