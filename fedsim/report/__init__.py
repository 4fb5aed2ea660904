"""What a run leaves for people to read: the run folder, its plots, its HTML report and its summary on a terminal."""
