"""Federated methods: one file per method, with its server half and its client half."""
