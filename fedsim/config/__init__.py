"""The configuration of a run: typed models, and how files and flags are resolved to one of them."""
