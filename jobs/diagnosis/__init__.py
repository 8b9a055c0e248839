"""What `afd doctor` is made of."""
