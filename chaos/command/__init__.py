"""Any command as the server under test: its plan, its processes, its campaign, and what its run came to.

Nothing here knows what the server does. It is started, asked whether it is ready, hit, watched and stopped; whether it
supervises its children as its plan says is judged by `chaos.oracles.command` from what the kernel tells.
"""
