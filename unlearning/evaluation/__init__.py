"""Metrics and attacks that compare an unlearned model with one that never saw the data, and their noise.

Pure functions on arrays; labels are (n,) class numbers, logits (n, C). Arguments are arrays or CPU tensors without
gradient, and every draw comes from a generator that is passed in. Docstrings give the formula,
the paper, and where ours differs.
"""
