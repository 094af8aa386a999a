"""PostgreSQL's frontend/backend protocol, version 3: bytes to messages and back, and one socket.

`messages` holds what a client can say as values, `codec` turns bytes into those values and answers into bytes without
touching a socket, `connection` is the one socket of a child process. Nothing here knows what a statement means.
"""
