"""A model in use: `Model`, `Chat`, the engine thread, turns, events and requests."""
