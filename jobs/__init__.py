"""The commands: one file a job, each parses, builds and calls."""
