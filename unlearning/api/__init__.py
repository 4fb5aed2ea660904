"""What the author of an unlearning method imports."""
