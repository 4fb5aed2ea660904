"""Common parts of unlearning methods."""
