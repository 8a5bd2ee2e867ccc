"""Stage 1: networks that turn an image into discrete tokens and back, one file each."""
