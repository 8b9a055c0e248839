"""What `afd label` is made of."""
