"""Tokenizer, chat template, and the reply split into its parts. Never imports mlx."""
