"""Evaluators and metrics.

An evaluator is made with the objective's predict functions and a frozen config, and
`run(state) -> Iterator[(name, value)]`: a float is a figure, a uint8 array [H, W, 3] a picture.
"""
