"""Differential privacy: mechanisms, accountants, the ledger of releases, and its audit."""
