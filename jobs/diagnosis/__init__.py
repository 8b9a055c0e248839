"""The parts of `afd doctor`."""
