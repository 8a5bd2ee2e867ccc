"""Optimizers as optax transformations: schedules, clipping, config to optax."""
