"""Common parts of the benchmark scripts: workloads, the rows that run them, and how rows are measured and compared."""
