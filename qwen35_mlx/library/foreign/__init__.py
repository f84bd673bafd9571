"""Conversations that other programs have exported.

Their formats have no specification, and change: what is missing or of another kind than expected
is left out, and what is left makes a conversation.
"""
