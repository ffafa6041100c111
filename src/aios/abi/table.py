"""The system calls: one row each, and nothing about a call is written down twice.

From the rows come HTTP routes and JSON schemas, the checks of the call path, the lanes, the journal's rule, `aios call`
and the reference pages. A row's name never changes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from aios.abi import account, board, event, lane, lease, llm, mail, price, process, system, tool
from aios.abi.request import Request, reply_of

Lane = Literal["cores", "index"]
Repeat = Literal["internal", "repeatable", "once"]
Risk = Literal["read", "private", "external", "irreversible"]
Waiting = Literal["no", "turn", "long"]


class Row(msgspec.Struct, frozen=True):
    """One system call.

    `needs`: verb and resource of the grant; `{field}` is a field of the request; `own` means the process itself, an
    ancestor of the one named, or an operator; "" needs no grant. `lane`: the resource it waits for a turn of.
    `repeat`: what a crash in its middle means. `deadline_s`: its default, None for waits without an end.
    `version`: of its request; part of the digest.
    """

    name: str
    request: type[Request[Any]]
    needs: str
    lane: Lane | None
    repeat: Repeat
    risk: Risk
    wait: Waiting
    deadline_s: float | None
    sentence: str
    version: int = 1

    @property
    def reply(self) -> type[Any]:
        return reply_of(self.request)

    @property
    def streams(self) -> bool:
        """Whether it says something before its reply."""
        return self.lane == "cores"


# fmt: off
TABLE: tuple[Row, ...] = (
    #   name, request, needs, lane
    #       repeat, risk, wait, deadline_s, sentence
    Row("llm.generate",      llm.Generate,          "use /llm/{model}",               "cores",
        "repeatable", "external",     "turn", 3600, "Ask a model."),
    Row("llm.score",         llm.Score,             "use /llm/{model}",               "cores",
        "repeatable", "external",     "turn", 600,  "Say how likely given continuations are."),
    Row("llm.embed",         llm.Embed,             "use /llm/{model}",               "index",
        "repeatable", "external",     "turn", 600,  "Turn texts into vectors."),
    Row("llm.count",         llm.Count,             "use /llm/{model}",               None,
        "repeatable", "read",         "no",   30,   "Count tokens."),
    Row("llm.models",        llm.Models,            "",                               None,
        "repeatable", "read",         "no",   10,   "List the models that may be used."),
    Row("process.spawn",     process.Spawn,         "spawn /agents/{manifest.agent}", None,
        "internal",   "private",      "no",   60,   "Start an agent."),
    Row("process.wait",      process.WaitFor,       "own /process/{pid}",             None,
        "repeatable", "read",         "long", None, "Wait for a process to end."),
    Row("process.signal",    process.SignalProcess, "own /process/{pid}",             None,
        "internal",   "private",      "no",   30,   "Stop, kill, suspend or resume a process."),
    Row("process.renice",    process.Renice,        "own /process/{pid}",             None,
        "internal",   "private",      "no",   30,   "Change the class of a process."),
    Row("process.list",      process.List,          "",                               None,
        "repeatable", "read",         "no",   10,   "List processes."),
    Row("process.self",      process.Self,          "",                               None,
        "repeatable", "read",         "no",   10,   "Tell a process what it is."),
    Row("process.explain",   process.Explain,       "own /process/{pid}",             None,
        "repeatable", "read",         "no",   10,   "Say why a process waits."),
    Row("process.logs",      process.Logs,          "own /process/{pid}",             None,
        "repeatable", "read",         "long", None, "Read what a process printed."),
    Row("mail.send",         mail.SendMail,         "write /mail/{to}",               None,
        "internal",   "private",      "no",   30,   "Send mail to a process."),
    Row("mail.receive",      mail.ReceiveMail,      "",                               None,
        "internal",   "private",      "long", None, "Take the oldest mail out of one's mailbox."),
    Row("mail.request",      mail.RequestMail,      "write /mail/{to}",               None,
        "internal",   "private",      "long", None, "Send mail and wait for the reply."),
    Row("mail.reply",        mail.ReplyMail,        "",                               None,
        "internal",   "private",      "no",   30,   "Reply to mail that asks for it."),
    Row("board.put",         board.PutNotice,       "write /boards/{board}",          None,
        "internal",   "private",      "no",   30,   "Put a value on a board."),
    Row("board.get",         board.GetNotice,       "read /boards/{board}",           None,
        "repeatable", "read",         "no",   10,   "Read what stands on a board."),
    Row("board.list",        board.ListNotices,     "read /boards/{board}",           None,
        "repeatable", "read",         "no",   10,   "List what stands on a board."),
    Row("board.watch",       board.WatchBoard,      "read /boards/{board}",           None,
        "repeatable", "read",         "long", None, "Read what is new on a board."),
    Row("lease.acquire",     lease.AcquireLease,    "use /leases/{name}",             None,
        "internal",   "private",      "long", None, "Hold a named resource."),
    Row("lease.renew",       lease.RenewLease,      "use /leases/{name}",             None,
        "internal",   "private",      "no",   10,   "Hold a named resource for longer."),
    Row("lease.release",     lease.ReleaseLease,    "use /leases/{name}",             None,
        "internal",   "private",      "no",   10,   "Give a named resource back."),
    Row("tool.register",     tool.RegisterTools,    "",                               None,
        "internal",   "private",      "no",   10,   "Tell of an agent's own functions."),
    Row("tool.list",         tool.ListTools,        "",                               None,
        "repeatable", "read",         "no",   10,   "List the tools that may be used."),
    Row("tool.execute",      tool.ExecuteTool,      "",                               None,
        "once",       "external",     "no",   3600, "Run a tool."),
    Row("event.read",        event.ReadEvents,      "read /events",                   None,
        "repeatable", "read",         "long", None, "Read what happened."),
    Row("core.list",         system.ListCores,      "read /cores",                    None,
        "repeatable", "read",         "no",   10,   "List the cores and their load."),
    Row("account.show",      account.ShowAccounts,  "",                               None,
        "repeatable", "read",         "no",   10,   "Show what was spent and may be spent."),
    Row("account.limit",     account.SetLimit,      "own /accounts",                  None,
        "internal",   "private",      "no",   10,   "Limit what an account may spend."),
    Row("account.prices",    price.ShowPrices,      "",                               None,
        "repeatable", "read",         "no",   10,   "Show what the models cost."),
    Row("lane.list",         lane.ListLanes,        "read /lanes",                    None,
        "repeatable", "read",         "no",   10,   "List the lanes and their policies."),
    Row("lane.use",          lane.UseLane,          "own /lanes",                     None,
        "internal",   "private",      "no",   10,   "Let another policy decide who is next."),
    Row("token.add",         system.AddToken,       "own /tokens",                    None,
        "internal",   "private",      "no",   10,   "Make a token for an agent."),
    Row("token.list",        system.ListTokens,     "own /tokens",                    None,
        "repeatable", "read",         "no",   10,   "List the tokens."),
    Row("token.revoke",      system.RevokeToken,    "own /tokens",                    None,
        "internal",   "private",      "no",   10,   "Make a token worthless."),
    Row("kernel.statistics", system.ReadStatistics, "read /kernel",                   None,
        "repeatable", "read",         "no",   10,   "Read the kernel's figures."),
    Row("kernel.drain",      system.Drain,          "own /kernel",                    None,
        "internal",   "irreversible", "no",   10,   "Go down in order."),
    Row("clock.now",         system.Now,            "",                               None,
        "repeatable", "read",         "no",   10,   "Tell the time, recorded."),
    Row("clock.sleep",       system.Sleep,          "",                               None,
        "repeatable", "read",         "long", None, "Wait for a time."),
    Row("random.bytes",      system.RandomBytes,    "",                               None,
        "repeatable", "read",         "no",   10,   "Draw random bytes, recorded."),
)
# fmt: on

ROWS: dict[str, Row] = {row.name: row for row in TABLE}
ROW_OF: dict[type[Request[Any]], Row] = {row.request: row for row in TABLE}

ALIASES: dict[str, str] = {"llm_generate": "llm.generate"}
"""Names of the classic interface that still find their row."""
