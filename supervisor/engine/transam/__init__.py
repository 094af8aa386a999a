"""Transactions: their numbers, what became of them, who sees what, and waiting for one another."""
