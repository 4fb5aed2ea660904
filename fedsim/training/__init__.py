"""Local training: who sees which sample when, and the SGD loop over one client or many at once."""
