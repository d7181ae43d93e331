"""Helpers for asyncio that know nothing of the gateway but its errors.

caller_turns   bounds what is done for one caller at a time
cancellation   ends a task for a named reason
disk_body      a body in a file, and how it is sent from there
deadline       a timer that can be moved cheaply
off_loop       threads for work that takes long
periodic       background work, repeated under supervision
tcp            options of TCP sockets
"""
