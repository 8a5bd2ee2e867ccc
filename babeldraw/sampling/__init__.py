"""Decode loops as pure functions, guidance, filters on logits."""
