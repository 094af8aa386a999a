"""The kernel's account of a run: what really happened to processes, whatever the server says of itself.

`witness` records it through tracefs, `records` is its form in events/kernel.jsonl, `account` is what a judge
reads from those records. Nothing here judges.
"""
