"""Layout: messages into lines for the screen."""
