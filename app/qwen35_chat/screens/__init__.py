"""What can cover the chat, and the chat itself."""
