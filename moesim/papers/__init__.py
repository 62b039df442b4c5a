"""Published figures, predicted."""
