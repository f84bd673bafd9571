"""Checkpoints on disk or on the Hub, in any supported layout, read as the model's weights."""
