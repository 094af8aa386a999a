"""What a backend offers to whoever speaks for a client: transactions over typed rows."""
