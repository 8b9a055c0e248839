"""The AFD-Module and the classifiers it is attached to, in plain PyTorch."""
