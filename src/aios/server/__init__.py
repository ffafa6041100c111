"""The doors: each turns what it hears into one thing, a system call made by a process.

`http.py` is the edge of everything that speaks HTTP, `socket.py` the kernel's end of a child's socketpair. Doors know the
kernel by its port only, and neither ASGI nor sockets.
"""
