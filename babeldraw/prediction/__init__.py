"""Ways to predict codes, one file each, with guidance and filters."""
