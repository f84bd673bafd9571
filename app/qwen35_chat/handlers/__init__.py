"""What the commands do, by subject. Handlers use the controller, and a view by its protocol."""
