"""The contract between agents, doors and the kernel: frozen values and tables, no input or output.

`table.py` is the first file to read: one row per system call.
"""
