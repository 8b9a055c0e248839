"""The parts of `afd label`."""
