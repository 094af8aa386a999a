"""The child processes of the server: one module per kind, and what they share.

`child` is every child's first and last act. `backend` and `dead_end` face clients (with `startup_packet`, `parameters`,
`command_loop`, `extended_query`, `interrupts` and `last_words` as their parts); the others are the auxiliary processes.
"""
