"""The commands, one file per job."""
