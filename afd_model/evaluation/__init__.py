"""Ground truth, statistics and maps of what the module does."""
