"""What happens to pixels beside the decoder: grouping, resampling, normalising, DCT."""
