"""Make a finished run forget, and measure how far the result is from never having known."""
