"""Training: configuration, resumable state and the loop."""
