"""What was said: conversations in SQLite, search, import and export. Never imports mlx."""
