"""What a person, or an automation, sees of a run."""
