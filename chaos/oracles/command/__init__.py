"""The oracles of any command's supervision: one rule each, judged from the kernel's account and from /proc."""
