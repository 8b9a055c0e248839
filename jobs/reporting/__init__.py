"""The parts of `afd report`."""
