"""Conversations: events, the chat, the model handle that Python users hold."""
