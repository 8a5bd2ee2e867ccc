"""Networks that judge pictures."""
