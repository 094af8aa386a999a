"""Background workers to read and to preload: one module each, so that `shared_preload_libraries` chooses.

They live in the server's package and not in `workloads`, because no transaction of theirs is judged: they show what a
worker is and how each of its ends is treated. They are above the processes in the order of imports, and no other module
of the server imports them.
"""
