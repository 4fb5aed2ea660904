"""All that touches Flower: records of tensors, its messages and its apps."""
