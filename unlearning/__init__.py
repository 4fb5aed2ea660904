"""Unlearning methods: one file per method."""
