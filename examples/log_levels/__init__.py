"""Log lines by level: the steps of tasks/ with another node script and another summary."""
