"""Federated methods: one file is one method, its server half beside its client half."""
