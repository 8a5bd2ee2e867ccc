"""What a compiled TPU program costs: its scheduled text, chips, links, kernels, memory."""
