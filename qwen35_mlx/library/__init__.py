"""Stored conversations: SQLite, search, import and export. Never imports mlx."""
