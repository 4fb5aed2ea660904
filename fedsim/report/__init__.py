"""Reports for people: the plots of a run, its HTML report, and its summary on a terminal."""
