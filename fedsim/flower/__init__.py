"""The interface to Flower: records of tensors, messages and apps."""
