"""The parts of `afd train`."""
