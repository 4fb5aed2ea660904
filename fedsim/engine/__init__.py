"""Engines: Flower `Grid`s that run chunks of clients, in this process or on Ray actors."""
