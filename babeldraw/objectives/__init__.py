"""Training recipes, one file each: initial state, loss, update, what evaluators may call."""
