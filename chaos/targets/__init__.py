"""What can be crashed: one module per kind of server."""
