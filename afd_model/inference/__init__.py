"""Fast inference on each device."""
