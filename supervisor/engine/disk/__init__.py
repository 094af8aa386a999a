"""What the engine asks of a disk, and the real one."""
