"""Faults done to the real label job, and an audit of what is left.

`pytest -m slow tests/faults` does each kind of fault once or twice; `make faults ROUNDS=20 SEED=1`
does them as often as one likes and prints a table.
"""
