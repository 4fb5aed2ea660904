"""fedsim: federated, privacy-aware learning with machine unlearning, simulated."""

__version__ = "0.1.0"
