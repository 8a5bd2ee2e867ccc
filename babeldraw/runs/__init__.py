"""The run folder: its config, its checkpoints. Knows no model."""
