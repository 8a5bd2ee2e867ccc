"""How complex a picture is, told from its caption before it exists; and how well that is told."""
