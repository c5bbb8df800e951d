"""What people and automations see of a run."""
