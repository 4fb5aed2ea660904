"""What a federated method is written against: the two halves, and the registry."""
