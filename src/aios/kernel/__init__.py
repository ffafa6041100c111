"""The kernel: every use of anything by an agent is a system call that goes through `call.py`."""
