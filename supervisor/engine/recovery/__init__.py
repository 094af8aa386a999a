"""What survives a crash and how it is brought back: control file, checkpoints, redo."""
