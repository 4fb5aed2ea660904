"""The model zoo: every model is a feature extractor followed by one linear classifier.

Only the names and options live here, without torch; networks are built by `fedsim.models.build.build_model` and run
as pure functions by `fedsim.models.functional.FunctionalModel`.
"""

from fedsim.models.config import ModelConfig, available_models

__all__ = ["ModelConfig", "available_models"]
