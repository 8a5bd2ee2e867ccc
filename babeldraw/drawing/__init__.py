"""From a trained run to pictures."""
