"""Untrusted bytes in masses: coverage-guided at the parser, mutated files through the whole job."""
