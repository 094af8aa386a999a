"""The supervised server: a PostgreSQL-style postmaster and the backends that it forks.

`PROJECT` marks this package as crashbed's own. Another distribution on the package index is also
called `supervisor`; every entry point looks for the mark and says in one sentence when it got the
other one.
"""

PROJECT = "crashbed"
VERSION = "0.1.0"
# What SHOW server_version says: clients choose their catalog queries by the number in front.
SERVER_VERSION = f"18.0 (crashbed {VERSION})"
