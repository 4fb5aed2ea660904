"""A run's federation as an app for Flower's SuperLink and SuperNodes; each node has its own data."""
