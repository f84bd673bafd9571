"""Tokenizer, chat template, and the parser of replies. Never imports mlx."""
