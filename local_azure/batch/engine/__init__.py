"""Background work: allocation, scheduling, lifecycles, autoscale."""
