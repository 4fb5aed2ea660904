"""Unlearning methods: one file is one method."""
