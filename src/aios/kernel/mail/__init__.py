"""Direct mail: a mailbox per process, and the requests that wait for a reply."""
