"""Images beside compressed versions of themselves: for training, evaluation and test sets."""
