"""What happens by itself: allocation, scheduling, lifecycles, autoscale."""
