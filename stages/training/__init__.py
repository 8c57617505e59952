"""The one training loop, its data order, EMA and checkpoints."""
