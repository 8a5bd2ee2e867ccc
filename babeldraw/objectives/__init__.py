"""Training recipes, one file each: what is initialised, the loss, the update, what may be called."""
