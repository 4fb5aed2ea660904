"""Trackers: they record the metrics of a run outside of its folder format. One tracker is one file."""
