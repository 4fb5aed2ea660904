"""What the benchmark scripts share: workloads, the rows that run them, and how rows are measured and compared."""
