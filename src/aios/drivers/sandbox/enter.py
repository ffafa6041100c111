"""The launcher: confines itself, then becomes the program that it was told to start.

Run as `python -I -S enter.py` with an empty environment and a socket as its standard input: there it reads what to do, and
says why if it cannot; end of file without a word means that the program runs. It imports as little as it can, because every
child waits for it, and nothing of AIOS, because that is not on its path.
"""

import _socket
import ctypes
import errno
import fcntl
import marshal
import os
import resource
import signal
import stat
import struct
import sys

# From <linux/prctl.h>, <linux/landlock.h>. The three calls have the same numbers on every architecture.
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
FILES_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
NET_FROM, NET = 4, 0b11  # bind and connect TCP
RULE_NET_PORT, CONNECT_TCP = 2, 0b10
SCOPE_FROM, SCOPE = 6, 0b11  # abstract unix sockets, signals
DEVICE_NODES = 1 << 6 | 1 << 11  # made in one's own folder, they would open a disk to root
NEWEST = 6  # later versions add audit, and what is not asked for here

# From <linux/sched.h>, <linux/mount.h>, <linux/sockios.h>, <linux/if.h>
NEW_MOUNTS, NEW_USER, NEW_NET = 0x20000, 0x10000000, 0x40000000
MOUNT_SETATTR, BIND, RECURSIVE, PRIVATE = 442, 1 << 12, 1 << 14, 1 << 18
HERE, BELOW, READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS = -100, 0x8000, 1, 2, 4, 8
SHARED_MEMORY, SHARED_MEMORY_SIZE = "/dev/shm", b"size=64m,nr_inodes=10k,mode=700"
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1
LOOPBACK, WAITING = "127.0.0.1", 1024
PROBE = "--probe"
"""Instead of an order: try whether namespaces can be had, and end with 0 if they can."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GIB = 1 << 30
LIMITS = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 4096, resource.RLIMIT_FSIZE: GIB, resource.RLIMIT_DATA: 4 * GIB}
"""Not the number of processes: it is counted per user, so a desktop's own would use it up, and root is not bound by it."""

libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """The version of Landlock that this machine has; 0 for none."""
    if sys.platform != "linux":
        return 0
    version: int = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(CREATE_RULESET_VERSION))
    return max(0, version)


def must(result: int, what: str) -> int:
    """The result of a call to the C library. Raises OSError if it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, value: int) -> None:
    none = ctypes.c_ulong(0)
    must(libc.prctl(option, ctypes.c_ulong(value), none, none, none), "prctl")


def die_with(parent: int) -> None:
    """Be killed when the parent's thread ends; it may have ended before it could be asked for."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def limit() -> None:
    for kind, most in LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def restrict(abi: int, read: "list[str]", write: "list[str]", network: str, port: int) -> None:
    """Only these paths from now on, no TCP, and signals and abstract sockets only within, as far as version `abi` goes.

    In a network of its own it may do with TCP what it likes; in the machine's it may connect to `port`, if that is not 0.
    """
    files = FILES_OF_ABI[min(abi, max(FILES_OF_ABI))]
    net = 0 if network == "own" else NET
    handled = struct.pack("QQQ", files, net, SCOPE)[: 8 if abi < NET_FROM else 16 if abi < SCOPE_FROM else 24]
    rules = must(
        libc.syscall(CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint32(0)), "landlock_create_ruleset"
    )
    for path in read:
        allow(rules, path, EXECUTE | READ_FILE | READ_DIR)
    for path in write:
        allow(rules, path, files & ~DEVICE_NODES)
    if network == "own":
        allow(rules, SHARED_MEMORY, files & ~DEVICE_NODES)
    for path in DEVICES:
        allow(rules, path, (READ_FILE | WRITE_FILE | TRUNCATE) & files)
    if network == "port" and abi >= NET_FROM:
        where = struct.pack("QQ", CONNECT_TCP, port)
        must(libc.syscall(ADD_RULE, rules, RULE_NET_PORT, where, ctypes.c_uint32(0)), "landlock_add_rule")
    must(libc.syscall(RESTRICT_SELF, rules, ctypes.c_uint32(0)), "landlock_restrict_self")
    os.close(rules)


def allow(rules: int, path: str, rights: int) -> None:
    """Rights on a path and all below; one that is not there, or closed to us anyway, needs none."""
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return
        raise
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        rights &= OF_FILES
    beneath = struct.pack("=Qi", rights, target)
    must(libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, beneath, ctypes.c_uint32(0)), f"landlock_add_rule {path}")
    os.close(target)


def leave(write: "list[str]") -> None:
    """Have a network of one's own, in which nobody else is, and a view of the files that is for reading alone, but for `write`.

    Who may not gets a user's namespace around it.
    """
    if libc.unshare(NEW_NET | NEW_MOUNTS) < 0:
        user, group = os.getuid(), os.getgid()
        must(libc.unshare(NEW_USER | NEW_NET | NEW_MOUNTS), "unshare")
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    freeze_files(write)
    bring_up_loopback()


def freeze_files(write: "list[str]") -> None:
    """What Landlock does not ask about (modes, owners, times, attributes) a mount does that is for reading alone."""
    must(libc.mount(None, b"/", None, ctypes.c_ulong(RECURSIVE | PRIVATE), None), "mount")
    for path in write:
        must(libc.mount(path.encode(), path.encode(), None, ctypes.c_ulong(BIND), None), "mount")
    set_mount("/", BELOW, READ_ONLY, 0)
    for path in write:
        set_mount(path, 0, NO_SETUID | NO_DEVICES, READ_ONLY)
    if os.path.isdir(SHARED_MEMORY):  # for semaphores, of these processes alone
        flags = ctypes.c_ulong(NO_SETUID | NO_DEVICES | NO_PROGRAMS)
        must(libc.mount(b"tmpfs", SHARED_MEMORY.encode(), b"tmpfs", flags, SHARED_MEMORY_SIZE), "mount")


def set_mount(path: str, how: int, set: int, clear: int) -> None:
    attributes = struct.pack("QQQQ", set, clear, 0, 0)
    number, size = MOUNT_SETATTR, ctypes.c_size_t(len(attributes))
    must(libc.syscall(number, ctypes.c_int(HERE), path.encode(), ctypes.c_uint(how), attributes, size), f"mount_setattr {path}")


def bring_up_loopback() -> None:
    with_flags = struct.Struct("16sh22x")
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    _, flags = with_flags.unpack(fcntl.ioctl(probe, GET_FLAGS, with_flags.pack(b"lo", 0)))
    fcntl.ioctl(probe, SET_FLAGS, with_flags.pack(b"lo", flags | UP))
    probe.close()


def hand_out(control: int, port: int) -> None:
    """Listen at `port` here, and give the listening socket to whoever holds the other end of `control`."""
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listening.bind((LOOPBACK, port))
    listening.listen(WAITING)
    end = _socket.socket(fileno=control)
    end.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listening.fileno()))])
    end.detach()
    listening.close()


def filter_calls(program: bytes) -> None:
    """Lay a seccomp program on oneself and on all that follows; the last thing to do, for it forbids what came before."""
    steps = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("HP", len(program) // 8, ctypes.addressof(steps))  # `struct sock_fprog`
    must(libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), where), "seccomp")


def told() -> "tuple[int, dict[str, object]]":
    """A descriptor to answer on, which closes when the program starts, and what to do."""
    answer = os.dup(0)
    pieces = []
    while piece := os.read(answer, 1 << 16):
        pieces.append(piece)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return answer, marshal.loads(b"".join(pieces))


def keep_open(*fds: int) -> None:
    """Close every other descriptor: some ways of starting a child leave more open than they were told to."""
    edges = [-1, *sorted(fds), os.sysconf("SC_OPEN_MAX")]
    for below, above in zip(edges, edges[1:], strict=False):
        if below + 1 < above:  # an empty range at 0 would close all that there is
            os.closerange(below + 1, above)


def enter(status, parent, abi, calls, argv, env, fds, read, write, network, port, folder):  # type: ignore[no-untyped-def]  # bytes
    keep_open(0, 1, 2, status, *fds)
    os.umask(0o077)
    os.chdir(folder)
    limit()
    if network == "own":
        leave(write)
        os.chdir(folder)  # as it is seen now
        hand_out(status, port)
    if sys.platform == "linux":
        die_with(parent)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    if abi:
        restrict(abi, read, write, network, port)
    if calls:
        filter_calls(calls)
    os.execve(argv[0], argv, env)


if __name__ == "__main__":
    if sys.argv[1:] == [PROBE]:
        leave([])
        sys.exit(0)
    status, order = told()
    try:
        enter(status, **order)  # type: ignore[no-untyped-call]
    except OSError as error:
        os.write(status, str(error).encode())
        sys.exit(126)
