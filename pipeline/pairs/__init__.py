"""Images paired with compressed versions of themselves: for training, evaluation, test sets."""
