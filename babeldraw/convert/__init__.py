"""Weights that others published, to and from our parameters."""
