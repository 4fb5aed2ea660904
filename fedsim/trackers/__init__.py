"""Where the numbers of a run can be followed beside its folder: one tracker, one file."""
