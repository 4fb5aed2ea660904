"""The interface for authors of unlearning methods."""
