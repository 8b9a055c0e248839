"""The parts of `afd evaluate`."""
