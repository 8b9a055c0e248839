"""Trains an AFD-Module: pairs, losses, the loop, the flip model, the checkpoint."""
