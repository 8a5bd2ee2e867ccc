"""Stage 2: networks that predict image tokens, one file each."""
