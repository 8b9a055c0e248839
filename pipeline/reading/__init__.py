"""References -> screened bytes, read ahead of the decoder by threads, within a memory limit."""
