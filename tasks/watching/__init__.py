"""Reads the job, decides what that means, and reports it."""
