"""Qwen3.5 on MLX."""
