"""A run as values: settings, identity, input files, uploads, outcomes, results."""
