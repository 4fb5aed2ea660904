"""Local training: the batches of each client, and the SGD loop over one client or many at once."""
