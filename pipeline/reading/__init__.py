"""Bytes read ahead, by threads, in bounded memory."""
