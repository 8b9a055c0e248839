"""What is decided about encoded bytes before a decoder sees them."""
