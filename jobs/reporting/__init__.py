"""What `afd report` is made of."""
