"""The one training loop: config to experiment, state, metrics, restart rules."""
