"""Checks of encoded bytes before they are decoded."""
