"""The filter on a child's system calls: what Landlock does not reach, as a seccomp program in classic BPF.

A child keeps what works on itself and on what it has opened, and loses what works on others by number (limits, priorities,
processors, memory), by path without opening (modes, owners, times, attributes), or over sockets that it makes itself: its only
road is the descriptor that it inherits. It cannot leave its process group either, so that a kill takes all of it.

Calls that are not named are allowed, and calls newer than the table do not exist (`ENOSYS`, after which libraries fall back).
A list of what is allowed instead would be shorter only for one fixed version of Python, libc and every package of an agent.
Arguments are compared by their low 32 bits, which is all that Linux reads of a pid, a flag or a command; what pointers point to
cannot be seen from here. `fchmod` and `futimens` need no more than a descriptor for reading, so they are refused too.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from aios.ports.sandbox import Network

# <linux/audit.h>: how each machine is called by the kernel, and which column of the table is its own.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "arm64": (0xC00000B7, 1)}
X32 = 0x40000000
NEWEST = 462
"""The last call that this table knows of: `mseal`, of Linux 6.10."""

# <asm/unistd.h>: (x86-64, arm64); None where there is no such call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chmod": (90, None),
    "chown": (92, None), "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112), "clone": (56, 220),
    "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "fchown": (93, 55), "fchownat": (260, 54), "fcntl": (72, 25), "finit_module": (313, 273),
    "fremovexattr": (199, 16), "fsconfig": (431, 431), "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "futimesat": (261, None), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioctl": (16, 29), "ioperm": (173, None),
    "iopl": (172, None), "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "kill": (62, 129), "lchown": (94, None), "lremovexattr": (198, 15), "lsetxattr": (189, 6),
    "migrate_pages": (256, 238), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "mq_open": (240, 180), "mq_unlink": (241, 181), "msgctl": (71, 187), "msgget": (68, 186),
    "msgrcv": (70, 188), "msgsnd": (69, 189), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142), "removexattr": (197, 14),
    "request_key": (249, 218), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "semctl": (66, 191),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "sendmmsg": (307, 269),
    "sendmsg": (46, 211), "sendto": (44, 206), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "setpgid": (109, 154), "setpriority": (141, 140), "setsid": (112, 157), "settimeofday": (164, 170),
    "setxattr": (188, 5), "shmat": (30, 196), "shmctl": (31, 195), "shmget": (29, 194), "socket": (41, 198),
    "socketpair": (53, 199), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116), "tgkill": (234, 131),
    "tkill": (200, 130), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "utime": (132, None),
    "utimensat": (280, 88), "utimes": (235, None), "vhangup": (153, 58),
}  # fmt: skip

# <linux/seccomp.h>, <linux/prctl.h>
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOW_WORD = 0xFFFFFFFF
# <linux/sched.h>: every new namespace, and a child of one's parent, which would be the kernel's
CLONE_REFUSED = 0x7E020000 | 0x8000
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM, SOCK_DGRAM, SOCK_TYPE_MASK = 1, 2, 0xF
IPPROTO_TCP, IPPROTO_UDP = 6, 17
MSG_FASTOPEN = 0x20000000
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, TIOCSTI, FIOSETOWN, SIOCSPGRP = 0x40086602, 0x401C5820, 0x5412, 0x8901, 0x8902
F_SETOWN, F_SETOWN_EX = 8, 15


def refuse(number: int) -> int:
    """The verdict that lets a call fail with this `errno`."""
    return ERRNO | number


@dataclass(frozen=True, slots=True)
class Is:
    """That the argument at `index`, cut by `mask`, has this value."""

    index: int
    value: int
    mask: int = LOW_WORD


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of these calls: the verdict of the first case whose conditions all hold, or else `otherwise`."""

    calls: tuple[str, ...]
    otherwise: int
    cases: tuple[tuple[tuple[Is, ...], int], ...] = ()


def only(calls: str, *cases: tuple[Is, ...], error: int = errno.EPERM) -> Rule:
    """Calls that are allowed in these cases alone; without any, never."""
    return Rule(tuple(calls.split()), refuse(error), tuple((case, ALLOW) for case in cases))


def never(calls: str, *conditions: Is) -> Rule:
    """Calls that are refused if one of the conditions holds."""
    return Rule(tuple(calls.split()), ALLOW, tuple(((condition,), refuse(errno.EPERM)) for condition in conditions))


def _sockets(*kinds: tuple[int, int]) -> tuple[tuple[Is, ...], ...]:
    """Sockets of the internet of these kinds and protocols, also where the protocol is not said."""
    return tuple(
        (Is(0, family), Is(1, kind, SOCK_TYPE_MASK), Is(2, said))
        for family in (AF_INET, AF_INET6)
        for kind, protocol in kinds
        for said in (0, protocol)
    )


# Files that it may not open, or not write: without a view of its own, in which they cannot be changed.
FILES = (
    only("chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat"),
    only("setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"),
)
SET_USER, SET_GROUP = 0o4000, 0o2000
NO_MORE_RIGHTS = (
    never("chmod fchmod", Is(1, SET_USER, SET_USER), Is(1, SET_GROUP, SET_GROUP)),
    never("fchmodat fchmodat2", Is(2, SET_USER, SET_USER), Is(2, SET_GROUP, SET_GROUP)),
)
NETWORKS: dict[Network, tuple[Rule, ...]] = {
    "none": (*FILES, only("socket", error=errno.EACCES)),
    # In a network of its own nobody else is. Other protocols (raw, MPTCP, SCTP) have let programs out of things before.
    "own": (
        *NO_MORE_RIGHTS,
        only("socket", *_sockets((SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP)), error=errno.EACCES),
    ),
    # Landlock asks at `connect`, which a fast open leaves out.
    "port": (
        *FILES,
        only("socket", *_sockets((SOCK_STREAM, IPPROTO_TCP)), error=errno.EACCES),
        never("sendto sendmmsg", Is(3, MSG_FASTOPEN, MSG_FASTOPEN)),
        never("sendmsg", Is(2, MSG_FASTOPEN, MSG_FASTOPEN)),
    ),
}
"""By the kind of surroundings. UDP, raw, netlink and unix sockets by path need a socket that is made here."""

ONESELF = (Is(0, 0),)
RULES = (
    # A pair of datagram sockets could be sent elsewhere.
    only("socketpair", (Is(0, AF_UNIX), Is(1, SOCK_STREAM, SOCK_TYPE_MASK)), error=errno.EACCES),
    # Other processes, by number.
    only("prlimit64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler", ONESELF),
    only("setpriority", (Is(0, PRIO_PROCESS), Is(1, 0))),
    only("ioprio_set", (Is(0, IOPRIO_WHO_PROCESS), Is(1, 0))),
    only("ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp migrate_pages move_pages"),
    only("setsid setpgid"),
    never("fcntl", Is(1, F_SETOWN), Is(1, F_SETOWN_EX)),
    never("ioctl", *(Is(1, command) for command in (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, TIOCSTI, FIOSETOWN, SIOCSPGRP))),
    only("name_to_handle_at open_by_handle_at"),
    # What the same user's programs share without a file.
    only("keyctl add_key request_key mq_open mq_unlink"),
    only("shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl"),
    # Other views of the system, and what has let programs out of it before.
    only("clone", (Is(0, 0, CLONE_REFUSED),)),
    only("clone3", error=errno.ENOSYS),  # its flags lie behind a pointer; libc falls back to `clone`
    only("unshare setns mount umount2 pivot_root chroot open_tree move_mount mount_setattr fsopen fsconfig fsmount fspick"),
    only("bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register fanotify_init personality"),
    # The machine, where the kernel runs as root.
    only("kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct quotactl quotactl_fd"),
    only("settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname syslog iopl ioperm vhangup"),
)


def signals_within(leader: int) -> tuple[Rule, ...]:
    """For a Landlock that does not confine signals: to the group of this leader, or to the leader, alone."""
    own = (ONESELF, (Is(0, leader),), (Is(0, -leader & LOW_WORD),))
    return (
        only("kill rt_sigqueueinfo", *own),
        only("tgkill rt_tgsigqueueinfo", (Is(0, leader),)),
        only("tkill pidfd_send_signal"),
    )


# <linux/bpf_common.h>: load a word of `struct seccomp_data`, and, jump if equal, greater or equal, greater; return.
LOAD, AND, EQUAL, AT_LEAST, ABOVE, RETURN = 0x20, 0x54, 0x15, 0x35, 0x25, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A `struct sock_filter`; the jumps say how many steps to leave out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _case(conditions: Iterable[Is], verdict: int) -> bytes:
    steps: list[bytes] = [_step(RETURN, verdict)]
    for condition in reversed(tuple(conditions)):  # each jumps over what follows it
        steps.insert(0, _step(EQUAL, condition.value, if_false=len(steps)))
        if condition.mask != LOW_WORD:
            steps.insert(0, _step(AND, condition.mask))
        steps.insert(0, _step(LOAD, ARGUMENTS_AT + 8 * condition.index))  # little endian: the low word comes first
    return b"".join(steps)


@lru_cache(8)
def program(machine: str, rules: tuple[Rule, ...] = RULES + NETWORKS["none"]) -> bytes:
    """The filter for a machine as an array of `struct sock_filter`; empty where there is no table for it."""
    if machine not in MACHINES:
        return b""
    name, column = MACHINES[machine]
    absent = _step(RETURN, refuse(errno.ENOSYS))
    steps = [_step(LOAD, MACHINE_AT), _step(EQUAL, name, if_true=1), absent, _step(LOAD, NUMBER_AT)]
    steps += [_step(AT_LEAST, X32, if_false=1), absent, _step(ABOVE, NEWEST, if_false=1), absent]
    for rule in rules:
        verdicts = b"".join(_case(*case) for case in rule.cases) + _step(RETURN, rule.otherwise)
        for call in rule.calls:
            number = NUMBERS[call][column]
            if number is not None:
                steps += [_step(EQUAL, number, if_false=len(verdicts) // 8), verdicts]
    return b"".join((*steps, _step(RETURN, ALLOW)))


def filtering() -> str:
    """The machine whose filter this system takes; nothing if it takes none."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        return ""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), None)  # a filter at no address: who has filters says so
    return machine if ctypes.get_errno() == errno.EFAULT else ""


def filter_of(machine: str, leader: int, signals_confined: bool, network: Network = "none") -> bytes:
    """The filter of a child; `leader`: its pid."""
    rules = RULES + NETWORKS[network]
    return program(machine, rules if signals_confined else rules + signals_within(leader))
