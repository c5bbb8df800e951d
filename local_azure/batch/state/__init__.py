"""The state that survives the process: SQLite, states, clock, errors, faults."""
