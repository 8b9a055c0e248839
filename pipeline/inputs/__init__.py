"""What an input may be, and how its images are found and read."""
