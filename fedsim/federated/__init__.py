"""The interface of federated methods: the two halves, and the registry."""
