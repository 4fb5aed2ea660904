"""The cluster of two nodes of the campaign that breaks runs (`scripts/torture.py`)."""

from tests.scripts.load import script


class TwoNodes(script("tortures.nodes").TwoNodes):
    """A head and a second node, a CPU each, and what their users need to know."""
