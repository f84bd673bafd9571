"""The Textual app `qwen35-chat`."""
