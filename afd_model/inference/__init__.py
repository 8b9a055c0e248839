"""The classifier as it runs in production, on each device."""
