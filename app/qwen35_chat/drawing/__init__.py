"""Text of users and models into lines for the screen."""
