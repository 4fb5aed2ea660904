"""From a request to forget to a measured outcome."""
