"""Command lines, one module per command. Scripts in ``projects/SQR`` are a few lines over them."""
