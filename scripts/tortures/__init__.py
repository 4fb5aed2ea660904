"""What `scripts/torture.py` is made of: a trial, and the kinds of trouble on one machine and on Ray."""
