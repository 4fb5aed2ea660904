"""Differential privacy: mechanisms, accountants, the ledger of what a run lets others see, and its audit."""
