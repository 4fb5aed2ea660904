"""The model zoo: every model is a feature extractor followed by one linear classifier.

This package imports only names and options, without torch. `fedsim.models.build.build_model` builds networks, and
`fedsim.models.functional.FunctionalModel` runs them as pure functions.
"""

from fedsim.models.config import ModelConfig, available_models

__all__ = ["ModelConfig", "available_models"]
