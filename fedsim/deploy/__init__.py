"""A run's federation as an app for Flower's SuperLink and SuperNodes: each node has data of its own."""
