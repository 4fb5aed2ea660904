"""Parts of `scripts/torture.py`: a trial, and the disturbances on one machine and on Ray."""
