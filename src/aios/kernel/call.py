"""The call path: the only road from an agent to anything.

    row → recorded? → prepare → access → attempt (turn → intent → act → settle) → label, record, commit → reply

The caller's own task walks it. A cancel, a deadline, a kill or a drain ends the call where it stands, and whatever it held is
given back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aios.abi.digest import digest
from aios.abi.errors import AiosError, Cancelled, Conflict, CoreFailed, Draining, Internal, Killed, UnknownCall
from aios.abi.event import CallEnded, CallSettled, Dispatched
from aios.abi.ids import call_id
from aios.abi.llm import Queued
from aios.abi.request import NO_OPTIONS, CallOptions, Request, lower
from aios.abi.table import ROW_OF, ROWS
from aios.kernel.access.grants import Grants
from aios.kernel.awaited import awaiting, waited_for
from aios.kernel.deadlines import Deadlines
from aios.kernel.events import EventLog
from aios.kernel.guard import Guard
from aios.kernel.lanes.fair import cost_of
from aios.kernel.lanes.lane import Lane, Turn, Withdrawn
from aios.kernel.lanes.policy import Accounts, Ticket, Waiter
from aios.kernel.ledger.cashier import Cashier
from aios.kernel.process import Call, Process, ProcessTable
from aios.kernel.programs import Program
from aios.kernel.record.journal import Journal
from aios.kernel.syscall import Syscall, resource_of
from aios.kernel.urgency import waiters_of
from aios.ports.clock import Clock
from aios.ports.kernel import Answer, Tell

ATTEMPTS = 2
"""How often a call is attempted whose core failed before it said anything."""

log = logging.getLogger("aios.kernel")


class CallPath:
    """Walks calls through their steps."""

    def __init__(
        self, clock: Clock, processes: ProcessTable, grants: Grants, lanes: Mapping[str, Lane], journal: Journal,
        events: EventLog, syscalls: Mapping[str, Syscall], deadlines: Deadlines, weight: Callable[[str, str], float],
        cashier: Cashier, guard: Guard,
    ) -> None:  # fmt: skip
        """`weight`: of a tenant (with user ""), or of a user of it."""
        self._loop = asyncio.get_running_loop()  # asked for once: each time would be a system call, getpid
        self._clock = clock
        self._processes = processes
        self._grants = grants
        self._lanes = lanes
        self._journal = journal
        self._events = events
        self._syscalls = syscalls
        self._prepare = {name: call.prepare or resource_of(ROWS[name]) for name, call in syscalls.items()}
        self._verbs = {name: ROWS[name].needs.partition(" ")[0] for name in syscalls}
        self._deadlines = deadlines
        self._weight = weight
        self._cashier = cashier
        self._free = cashier.free
        self._guard = guard
        self.draining = False
        self._in_lanes = 0
        self._no_more = asyncio.Event()
        self.count = self.failed = self.running = 0
        self.input_tokens = self.output_tokens = 0

    async def call(
        self, process: Process, request: Request[Any], options: CallOptions = NO_OPTIONS, tell: Tell | None = None
    ) -> Answer:
        """Make a system call in the caller's own task. Raises `AiosError`; cancelling the task cancels the call."""
        call = self._open(process, request, options, tell)
        try:
            value = await self._walk(call)
        except asyncio.CancelledError as cancel:
            given_up = self._given_up(call)
            error = call.stopped or (Cancelled("the caller gave up") if given_up else self._bug(cancel))
            self._fail(call, error)
            if given_up:
                raise
            raise error from None
        except AiosError as failure:
            self._fail(call, call.stopped or failure)
            if call.stopped is None:
                raise
            raise call.stopped from None  # it failed because it was stopped
        except Exception as bug:  # noqa: BLE001  # the edge: a handler's bug ends its own call and nothing else
            internal = self._bug(bug)
            self._fail(call, internal)
            raise internal from None
        finally:
            self._close(call)
        self._tell_end(call, "ok")
        if process.kind == "agent":
            self._guard.ended(call)
        return Answer(value, call.label, call.id, call.wait_s, call.cost, call.quota)

    async def drain(self) -> None:
        """Take no new work; return when no call has a turn, or waits for one, any more."""
        self.draining = True
        if self._in_lanes:
            await self._no_more.wait()

    def _given_up(self, call: Call) -> bool:
        """Whether the caller's own task was told to end, beside what the kernel did to stop the call."""
        assert call.task is not None
        return call.task.cancelling() - call.cancels - (call.stopped is not None) > 0

    def _bug(self, bug: BaseException) -> Internal:
        return Internal(f"a bug of ours, noted as incident {self.incident(bug)}")

    def incident(self, bug: BaseException) -> str:
        """Log a bug of ours; the id is all that a caller is told."""
        id = secrets.token_hex(6)
        log.error("incident %s", id, exc_info=bug)
        return id

    def _open(self, process: Process, request: Request[Any], options: CallOptions, tell: Tell | None) -> Call:
        row = ROW_OF.get(type(request))
        if row is None:
            raise UnknownCall(f"no row of the table takes a `{type(request).__name__}`")
        if process.exit is not None:
            raise Conflict(f"`{process.name}` has ended and makes no calls")
        if process.doomed:
            raise Killed(f"`{process.name}` was killed by {process.killed_by} and makes no calls")
        if self.draining and (row.lane is not None or row.name == "process.spawn"):
            raise Draining("the kernel is going down: try again when it is up", retry_after_s=10.0)
        path = process.next_path(options.scope) if options.key is None else f"k.{options.key}"
        if path in process.calls:
            raise Conflict("a call with this `key` is under way: wait for it", field="key")
        asked, asked_ns, task = self._clock.monotonic(), self._clock.now_ns(), asyncio.current_task(self._loop)
        assert task is not None
        call = Call(
            process, row, request, options, tell, lower(process.cls, options.cls), path, call_id(process.pid, path), asked,
            asked_ns, task, task.cancelling(),
        )  # fmt: skip
        process.calls[path] = call
        process.call_count += 1
        process.last_call = asked
        self.running += 1
        self._in_lanes += row.lane is not None
        self._deadlines.add(call)
        return call

    async def _walk(self, call: Call) -> Any:
        if call.process.held is not None:
            await self._resumed(call)
        keyed = call.options.key is not None
        recorded = keyed or call.process.kind == "agent" or call.row.risk != "read"
        asked = digest(call.row.name, call.row.version, call.request) if recorded else b""
        if keyed:
            known = self._journal.recorded(call, asked)
            if known is not None:
                value, call.label = known
                return value
        call.digest = asked
        self._allow(call)
        syscall = self._syscalls[call.row.name]
        if call.options.waits_for:
            with awaiting(call, waited_for(call, self._processes)):
                value = await self._done(call, syscall)
        else:
            value = await self._done(call, syscall)
        if call.label is not call.process.label:  # they are the same one where the call has joined them
            call.process.label = call.process.label.join(call.label)
        if recorded:
            durable = self._journal.commit(self._journal.result(call, value, call.label))
            if durable is not None:
                await durable
        if call.process.held is not None:
            await self._resumed(call)
        return value

    def _done(self, call: Call, syscall: Syscall) -> Awaitable[Any]:
        return syscall.act(call) if call.row.lane is None else self._attempts(call, syscall)

    async def _resumed(self, call: Call) -> None:
        """Return when nobody holds the call's process any more. What is done by then is done, and told when it goes on."""
        self._deadlines.pause(call)
        call.waits = call.process.why_held
        try:
            await call.process.resumed()
        finally:
            call.waits = None

    def _allow(self, call: Call) -> None:
        """Default deny: what the row needs must be granted, or owned."""
        if not call.row.needs:
            return
        verb, resources = self._verbs[call.row.name], self._prepare[call.row.name](call)
        if not resources:
            return
        if verb == "own" and resources[0].startswith("/process/"):
            self._processes.find(call.process, resources[0].removeprefix("/process/"))
            return
        call.allowed = self._grants.allowed(call.process, verb, resources)

    async def _attempts(self, call: Call, syscall: Syscall) -> Any:
        """Act in a turn; once more in another, on another core if there is one, if the core failed before it said anything."""
        assert call.row.lane is not None and syscall.bind is not None and syscall.plan is not None and syscall.bound is not None
        call.feasible = syscall.bind(call)
        lane, last = self._lanes[call.row.lane], call.attempt + ATTEMPTS - 1
        while True:
            path_s = call.process.path_s
            turn = call.turn = await self._turn(call, lane, syscall)
            began, stood_back_s, ended_well = self._clock.monotonic(), call.frozen_s, False
            failure: BaseException | None = None
            try:
                call.core = turn.dispatch.server
                call.turn_at, call.turn_ns = began, self._clock.now_ns()
                self._tell_turn(call, turn, call.turn_ns)
                call.plan = syscall.plan(call)
                if call.payment is not None:
                    self._cashier.record(call, call.payment)
                durable = self._journal.commit(self._journal.intent(call, call.plan))
                if durable is not None:
                    await durable
                call.acted = True
                value = await syscall.act(call)
                ended_well = True
                return value
            except CoreFailed as error:
                failure = error
                if call.stopped is not None or call.attempt >= last or call.first_ns is not None or call.row.repeat == "once":
                    raise
            except BaseException as error:
                failure = error
                raise
            finally:
                if call.hear_out is None:
                    ended = self._give_back(call, turn, ended_well, failure)
                else:
                    ended = self._clock.monotonic()
                    call.hear_out(partial(self._heard_out, call, turn, failure, call.cost))
                self._ran(call.process, turn.dispatch.ticket.program, path_s, ended - began - (call.frozen_s - stood_back_s))
                failure = None  # its traceback knows this frame: a ring would be left to the collector
            call.attempt += 1
            call.acted = False
            call.feasible = call.feasible - {call.core} or call.feasible

    def _heard_out(self, call: Call, turn: Turn, left: BaseException | None, told: int, failure: BaseException | None) -> None:
        """An answer has ended whose caller had `left`, in a `failure` or well: what it came to beyond what was `told` is told."""
        reserved = call.payment.reservation.amount.money
        self._give_back(call, turn, False, failure or left)
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self._events.add(
            CallSettled, tenant=call.process.tenant, call=call.id, pid=call.process.pid, name=call.process.name, core=call.core,
            input_tokens=call.input_tokens, cached_tokens=call.cached_tokens, output_tokens=call.output_tokens,
            cost=call.cost - told, reserved=reserved,
        )  # fmt: skip

    def _give_back(self, call: Call, turn: Turn, ended_well: bool, failure: BaseException | None) -> float:
        """Give a turn to the next, settled; when that was, by the monotonic clock."""
        cost = cost_of(call.input_tokens, call.cached_tokens, call.output_tokens or call.said_tokens)
        turn.settle(cost, at_least=not ended_well)  # first: who is next follows from what it came to
        payment = call.payment
        call.turn = call.payment = None  # they know the call, by its ticket: a ring would be left to the collector
        if payment is None:
            self._free.ended(call, failure)
        else:
            self._cashier.settle(call, payment, failure)
        turn.release()
        ended = self._clock.monotonic()
        if call.frozen is not None:
            call.frozen_s += ended
        call.frozen = call.ticket = call.requeue = None
        return ended

    @staticmethod
    def _ran(process: Process, program: Program, path_s: float, for_s: float) -> None:
        """The critical path has a call more."""
        path_s = program.ran(path_s, for_s)
        if process.program is program:
            process.path_s = max(process.path_s, path_s)
        else:
            program.ended()

    def _tell_turn(self, call: Call, turn: Turn, at_ns: int) -> None:
        process, given = call.process, turn.dispatch
        loads: dict[str, float] = {}
        unable: tuple[str, ...] = ()
        near = False
        if len(call.feasible) > 1:
            loads = {name: round(load, 3) for name, load in given.loads.items() if name in call.feasible}
            near = call.core == call.near and loads[call.core] > min(loads.values())
            unable = tuple(sorted(call.feasible - loads.keys()))
        self._events.append(
            Dispatched(
                call.id, process.pid, process.name, call.cls, call.core, given.reason, call.attempt, turn.waiting, loads, unable,
                near, seq=self._events.next, at_ns=at_ns, tenant=process.tenant,
            )
        )  # fmt: skip

    async def _turn(self, call: Call, lane: Lane, syscall: Syscall) -> Turn:
        """A turn, with what is reserved for it as `call.payment`.

        A call whose process is held gives up its place meanwhile, and queues again.
        """
        process, asked, again = call.process, call.asked, False
        program = process.program or self._processes.program_of(process, call.options.kind)
        accounts = self._accounts_of(process)
        deadline_s = call.options.deadline_s
        deadline = None if deadline_s is None else call.asked + deadline_s
        while True:
            payment = None if self._free.begins(call, syscall) else await self._cashier.payment(call, syscall)
            waiters = self._waiters_of(process) if process.awaited else ()
            ticket = Ticket(
                process.tenant, call.cls, process.pid, process.name, asked, call.asked_ns, call.feasible, process.share,
                call.near, accounts, program, call.options.remaining_s, deadline, waiters,
            )  # fmt: skip
            ticket.payment = payment
            call.requeue = partial(self._lend, lane, ticket, process)
            turn = lane.try_turn(ticket)
            if turn is None:  # here, and not in a coroutine of its own: most calls wait
                call.queue, call.ticket = lane, ticket
                try:
                    lane.enter(ticket, again)
                    if payment is not None:
                        payment.begin_count()
                    if call.tell is not None and not call.queued:
                        call.queued = True
                        call.tell(Queued(call.id, self._cashier.quota(call)))
                    turn = await lane.wait(ticket)
                except Withdrawn:
                    pass
                except BaseException:
                    self._cashier.release(call, ticket)  # who gives up waiting gets nothing reserved
                    raise
                finally:
                    if ticket.payment is not None:
                        ticket.payment.leave()
                    lane.leave(ticket)
                    call.queue = call.ticket = None
            if process.held is None and turn is not None:
                payment = call.payment = ticket.payment  # a limit may have come while it waited
                call.granted = None if payment is None else payment.granted
                return turn
            self._cashier.release(call, ticket)
            if turn is not None:
                turn.settle(0.0)
                turn.release()
            await self._resumed(call)
            asked, again = self._clock.monotonic(), True

    def _lend(self, lane: Lane, ticket: Ticket, process: Process) -> None:
        lane.lend(ticket, self._waiters_of(process))

    def _accounts_of(self, process: Process) -> Accounts:
        tenant, user, weight = process.tenant, process.user, self._weight
        if user:
            return ((tenant, weight(tenant, "")), (user, weight(tenant, user)), (process.share, 1.0))
        return ((tenant, weight(tenant, "")), (process.share, 1.0))

    def _waiters_of(self, process: Process) -> tuple[Waiter, ...]:
        return waiters_of(process, self._accounts_of, self._processes.program_of)

    def _fail(self, call: Call, error: AiosError) -> None:
        self.failed += 1
        error = call.unknown or error
        if call.digest:
            self._journal.error(call, error)
        self._tell_end(call, error.code)
        self._guard.failed(call, error)

    def _tell_end(self, call: Call, outcome: str) -> None:
        """One event for each call that did more than read."""
        self.count += 1
        if call.row.risk == "read":
            return
        process = call.process
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        frozen_s = round(call.frozen_s, 6) if call.frozen_s else 0.0
        self._events.append(
            CallEnded(
                call.id, process.pid, process.name, call.row.name, call.cls, outcome, call.asked_ns, call.turn_ns, call.first_ns,
                call.core, call.attempt, call.input_tokens, call.cached_tokens, call.output_tokens, call.answer,
                call.options.trace, call.about, frozen_s, call.cost, call.hear_out is not None, seq=self._events.next,
                at_ns=self._clock.now_ns(), tenant=process.tenant,
            )
        )  # fmt: skip

    def _close(self, call: Call) -> None:
        self.running -= 1
        self._in_lanes -= call.row.lane is not None
        if self.draining and not self._in_lanes:
            self._no_more.set()
        if call.stopped is not None and call.task is not None:
            call.task.uncancel()
        call.task = call.requeue = None
        call.process.last_call = self._clock.monotonic()
        if call.process.calls.get(call.path) is call:
            del call.process.calls[call.path]
        self._deadlines.done(call)
