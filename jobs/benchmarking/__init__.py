"""The parts of `afd benchmark`."""
