"""Coverage-guided fuzzing of what reads untrusted bytes in Python."""
