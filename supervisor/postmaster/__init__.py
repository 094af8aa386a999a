"""The postmaster: the process that forks the others, waits for them, and starts all over when one of them
crashes.

`states` is the pure state machine (its words are in `values`, `events`, `actions`, `transitions`),
`child_types` the policy table of the kinds of children, `exploration` and `diagram` look at the machine from
outside. What forks, waits and signals is the shell around it; the shell decides nothing.
"""
