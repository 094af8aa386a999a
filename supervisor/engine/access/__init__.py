"""How rows are kept and found: heap, B-tree, catalog."""
