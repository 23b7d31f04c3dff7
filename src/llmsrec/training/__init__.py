"""Training loops, batches and checkpoints."""
