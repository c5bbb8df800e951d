"""Other workloads on the same steps."""
