"""A real host child at the other end of a socketpair: what agents get, what they leave, and how they end."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kernel_end import KernelEnd, kernel_end

from aios.abi import frames
from aios.abi.answers import MAX_RESULT_BYTES, read_result
from aios.abi.errors import Fault
from aios.abi.label import KERNEL
from aios.abi.llm import Choice, Completion, Delta, Usage
from aios.abi.process import Exit, ProcessInfo
from aios.abi.request import Done
from aios.abi.system import Instant
from aios.abi.tool import ToolResult
from aios.abi.wire import decode_request, row_named

pytestmark = pytest.mark.real

HEAD = "import asyncio, dataclasses, sys, time\nimport msgspec\nimport aios\n"
ANSWER = Completion(id="c", model="m", core="core", choices=(Choice(text="one two"),), usage=Usage())


@asynccontextmanager
async def host(folder: Path, code: str, name: str = "program.py") -> AsyncIterator[KernelEnd]:
    """The kernel's end of a host that runs a program of this code."""
    program = folder / name
    program.write_text(HEAD + textwrap.dedent(code))
    async with kernel_end() as (end, theirs):
        argv = ("-I", "-u", "-m", "aios.sdk.host", "--fd", str(theirs.fileno()), str(program))
        child = await asyncio.create_subprocess_exec(sys.executable, *argv, pass_fds=(theirs.fileno(),))
        theirs.close()
        try:
            await end.welcome()
            yield end
        finally:
            end.transport.abort()
            assert await child.wait() == 0


def ask(end: KernelEnd, entry: str, arguments: Sequence[Any] = (), pid: str = "1", number: int = 1) -> None:
    end.say(frames.Ask(number, pid, entry, tuple(arguments), "default"))


async def answered(end: KernelEnd, entry: str, *arguments: Any) -> Any:
    """What an agent without calls and prints returns, or the fault that it ends in."""
    ask(end, entry, arguments)
    answer = await end.hear(frames.Answer)
    return answer.fault or result(answer)


def result(answer: frames.Answer) -> Any:
    return read_result(answer.result)


async def printed_until_answer(end: KernelEnd) -> tuple[dict[str, list[str]], frames.Answer]:
    """The lines of each process and stream, and the answer after them."""
    lines: dict[str, list[str]] = {}
    while True:
        frame = await end.hear(object)
        if isinstance(frame, frames.Answer):
            return lines, frame
        assert isinstance(frame, frames.Print)
        lines.setdefault(f"{frame.pid} {frame.stream}", []).extend(frame.text.split("\n"))


async def heard_call(end: KernelEnd) -> tuple[frames.Call, Any]:
    frame = await end.hear(frames.Call)
    return frame, decode_request(row_named(frame.name), frame.body, "msgpack")


def reply(end: KernelEnd, call: frames.Call, value: Any) -> None:
    end.say(frames.Reply(call.id, frames.pack(value), label=KERNEL))


async def test_arguments_have_the_types_of_their_annotations_and_results_are_plain(tmp_path: Path) -> None:
    code = """
        @dataclasses.dataclass
        class Point:
            x: int
            y: float = 0.5

        @aios.agent
        async def move(k: aios.Kernel, point: Point, *by: int) -> dict[str, Point]:
            return {type(point).__name__: Point(point.x + sum(by), point.y)}

        async def plain(k, anything):
            return anything
    """
    async with host(tmp_path, code) as end:
        assert await answered(end, "move", {"x": 1}, 2, 3) == {"Point": {"x": 6, "y": 0.5}}
        assert await answered(end, "plain", [1, None]) == [1, None]
        wrong = await answered(end, "move", {"x": "one"})
        assert (wrong.code, wrong.field) == ("Invalid", "arguments.point")
        assert (await answered(end, "move")).message == "`move` missing a required argument: 'point': it takes 2 after `k`"
        assert (await answered(end, "nobody")).message == "`program.py` has no agent function `nobody`"


async def test_what_an_agent_raises_says_the_type_and_its_own_line(tmp_path: Path) -> None:
    code = """
        import json

        @aios.agent
        async def fail(k):
            json.loads("{")

        @aios.agent
        async def refuse(k):
            raise aios.Denied("not you", field="x")

        @aios.agent
        async def leave(k):
            sys.exit("enough")
    """
    async with host(tmp_path, code) as end:
        ask(end, "fail")
        lines, answer = await printed_until_answer(end)
        assert answer.fault is not None and answer.fault.code == "ChildFailed"
        assert answer.fault.message.startswith("json.decoder.JSONDecodeError: Expecting property name")
        assert answer.fault.message.endswith('(program.py, line 9: `json.loads("{")`)')
        trace = lines["1 err"]
        assert trace[0].startswith("Traceback") and "program.py" in trace[1] and not any("aios/sdk" in line for line in trace)
        assert await answered(end, "refuse") == Fault("Denied", "not you", "x")
        ask(end, "leave")
        assert (await printed_until_answer(end))[1].fault == Fault(
            "ChildFailed", 'SystemExit: enough (program.py, line 17: `sys.exit("enough")`)'
        )
        assert (await answered(end, "refuse")).code == "Denied"  # the host lives on


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (r"ValueError('\ud800 x')", r"ValueError: \ud800 x (program.py"),
        (r"ExceptionGroup('\udfff', [ValueError(1)])", r"\udfff: ValueError: 1"),
        (r"aios.Denied('x' * 9_000_000)", "x" * 2000),
        ("aios.Denied(5, field=7, retry_after_s='soon')", "5"),
    ],
)
async def test_no_error_of_an_agent_ends_its_host(tmp_path: Path, raised: str, said: str) -> None:
    code = f"""
        async def fail(k):
            raise {raised}

        @aios.tool
        def tool() -> None:
            raise {raised}

        async def uses(k):
            await k.do(tool)

        async def well(k):
            return "well"
    """
    async with host(tmp_path, code) as end:
        ask(end, "fail")
        _, answer = await printed_until_answer(end)
        assert answer.fault is not None and answer.fault.message.startswith(said) and len(answer.fault.message) < 2100
        ask(end, "uses", pid="2", number=2)
        reply(end, (await heard_call(end))[0], Done())
        await heard_call(end)
        end.say(frames.RunTool(3, "2", "tool"))
        _, answer = await printed_until_answer(end)
        assert answer.id == 3 and answer.fault is not None and answer.fault.message.startswith(said)
        ask(end, "well", pid="3", number=4)
        assert result(await end.hear(frames.Answer)) == "well"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it' (broken.py, line 4: `import nothing"),
        ("def f(:", "SyntaxError: invalid syntax (broken.py, line 4)"),
        ("raise SystemExit(3)", "SystemExit: 3 (broken.py, line 4"),
    ],
)
async def test_a_program_that_does_not_load_is_said_to_whoever_asks(tmp_path: Path, code: str, said: str) -> None:
    async with host(tmp_path, code, "broken.py") as end:
        fault = await answered(end, "main")
        assert fault.code == "ChildFailed" and fault.message.startswith(said), fault


async def test_a_result_that_cannot_be_sent_is_a_fault_with_its_type(tmp_path: Path) -> None:
    code = """
        class Thing: ...
        async def thing(k): return Thing()
        async def huge(k): return 1 << 80
        async def large(k): return "x" * (9 << 20)
        async def many(k): return [0] * 300_000
        async def tuples(k): return {"a": {(1, 2): 3}}
        async def numbers(k): return {1: 2}
        async def nan(k): return [float("nan")]
        async def fits(k): return "x" * (1_000_000)
        async def loop(k):
            ring = []
            ring.append(ring)
            return ring
    """
    async with host(tmp_path, code) as end:
        said = {
            entry: await answered(end, entry) for entry in ("thing", "huge", "loop", "large", "many", "tuples", "numbers", "nan")
        }
        assert {fault.code for fault in said.values()} == {"ChildFailed"}
        assert said["thing"].message.startswith("its result is not JSON: a `Thing` cannot be sent")
        assert said["loop"].message.startswith("its result is not JSON: a `list`")
        assert said["huge"].message.startswith("its result is not JSON")
        assert said["large"].message == f"its result is too large: {(9 << 20) + 2} bytes of JSON, the most is {MAX_RESULT_BYTES}"
        assert "more than 200000 values" in said["many"].message
        assert "the key (1, 2) is a `tuple`" in said["tuples"].message and "a `int`, not a `str`" in said["numbers"].message
        assert "nan is no JSON number" in said["nan"].message
        assert await answered(end, "fits") == "x" * 1_000_000  # the control


async def test_each_agents_prints_go_to_its_own_process(tmp_path: Path) -> None:
    code = """
        met = asyncio.Event()

        async def speak(k, name: str, first: bool):
            print(name, "begins")
            sys.stderr.write(f"{name} \\x1b[31mwarns\\x1b[0m\\n")
            met.set() if not first else await met.wait()
            await asyncio.create_task(inner(name))
            await asyncio.to_thread(print, name, "in a thread")
            k.log(f"{name} ends")
            print("without an end", end="")

        async def inner(name):
            print(name, "in a task")
    """
    async with host(tmp_path, code) as end:
        ask(end, "speak", ["ada", True], pid="1", number=1)
        ask(end, "speak", ["bob", False], pid="2", number=2)
        lines: dict[str, list[str]] = {}
        for _ in range(2):
            for key, more in (await printed_until_answer(end))[0].items():
                lines.setdefault(key, []).extend(more)
        for pid, name in (("1", "ada"), ("2", "bob")):
            said = [f"{name} begins", f"{name} in a task", f"{name} in a thread", f"{name} ends", "without an end"]
            assert (lines[f"{pid} out"], lines[f"{pid} err"]) == (said, [f"{name} warns"])


async def test_a_flood_of_prints_is_dropped_and_said(tmp_path: Path) -> None:
    code = """
        async def flood(k):
            for _ in range(100_000):
                print("x" * 100)
    """
    async with host(tmp_path, code) as end:
        ask(end, "flood")
        lines, answer = await printed_until_answer(end)
        assert answer.fault is None and len(lines["1 out"]) < 12_000
        assert lines["1 err"][-1].endswith("lines were dropped: printed faster than they could be told")


async def test_a_stop_is_a_cancellation_after_which_code_may_clean_up(tmp_path: Path) -> None:
    code = """
        async def wait(k):
            try:
                await k.sleep(1000)
            finally:
                await asyncio.sleep(0)
                print("cleaned up")

        async def finish(k):
            try:
                await k.sleep(1000)
            except asyncio.CancelledError:
                return "in time"
    """
    async with host(tmp_path, code) as end:
        for entry, signal, expected in (("wait", "stop", "Cancelled"), ("wait", "kill", "Killed"), ("finish", "stop", None)):
            ask(end, entry)
            call, _ = await heard_call(end)
            end.say(frames.Tell("1", signal))  # type: ignore[arg-type]  # one of the two
            assert (await end.hear(frames.Cancel)).id == call.id
            lines, answer = await printed_until_answer(end)
            assert (answer.fault and answer.fault.code) == expected
            assert result(answer) == ("in time" if entry == "finish" else None)
            assert lines.get("1 out") == (["cleaned up"] if entry == "wait" else None)


async def test_a_stop_that_comes_with_the_question_still_gets_an_answer(tmp_path: Path) -> None:
    async with host(tmp_path, "async def wait(k): await k.sleep(1000)") as end:
        end.say(frames.Ask(1, "1", "wait", (), "default"), frames.Tell("1", "stop"))
        answer = await end.hear(frames.Answer)
        assert answer.fault is not None and answer.fault.code == "Cancelled"


async def test_tasks_that_are_left_behind_end_with_the_function_and_are_named(tmp_path: Path) -> None:
    code = """
        ended = []

        async def leave(k):
            asyncio.create_task(linger(), name="lingerer")
            await asyncio.sleep(0)

        async def linger():
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append("lingerer")

        async def look(k): return ended
    """
    async with host(tmp_path, code) as end:
        ask(end, "leave")
        lines, _ = await printed_until_answer(end)
        assert lines == {"1 err": ["cancelled 1 tasks that were left behind: lingerer"]}
        assert await answered(end, "look") == ["lingerer"]


async def test_a_plain_function_runs_in_a_thread_with_a_handle_that_blocks(tmp_path: Path) -> None:
    code = """
        @aios.agent
        def worker(k, name: str) -> list:
            print("from the thread")
            with_child = k.spawn(worker, "x").wait()
            return [k.now(), list(k.stream("hi")), with_child]

        @aios.agent
        def sleeper(k):
            k.sleep(1000)

        async def beside(k): return "beside"
    """
    async with host(tmp_path, code) as end:
        ask(end, "worker", ["a"])
        assert (await end.hear(frames.Print)).text == "from the thread"
        spawn, request = await heard_call(end)
        assert request.manifest.entry == "worker" and request.arguments == ("x",)
        reply(end, spawn, info("9"))
        waiting, _ = await heard_call(end)
        assert (await answered_as(end, "beside", "2")).result == b'"beside"'  # the thread holds nobody up
        reply(end, waiting, Exit(pid="9", outcome="result", result=7))
        now, _ = await heard_call(end)
        reply(end, now, Instant(at_ns=5))
        stream, _ = await heard_call(end)
        end.say(*(frames.Event(stream.id, frames.pack(Delta(text=text))) for text in ("one", " two")))
        reply(end, stream, ANSWER)
        assert result(await end.hear(frames.Answer)) == [5, ["one", " two"], 7]
        ask(end, "sleeper")
        await heard_call(end)
        end.say(frames.Tell("1", "stop"))
        await end.hear(frames.Cancel)
        fault = (await end.hear(frames.Answer)).fault
        assert fault is not None and fault.code == "Cancelled"


async def answered_as(end: KernelEnd, entry: str, pid: str) -> frames.Answer:
    ask(end, entry, pid=pid, number=int(pid))
    return await end.hear(frames.Answer)


def info(pid: str) -> ProcessInfo:
    return ProcessInfo(
        pid=pid, name=f"child-{pid}", kind="agent", cls="standard", state="running", word="running", started_ns=0, agent="child",
        tenant="",
    )  # fmt: skip


async def test_an_agent_asks_streams_and_steers_its_children(tmp_path: Path) -> None:
    code = """
        @aios.agent(model="fast")
        async def child(k): ...

        @aios.agent
        async def parent(k):
            said = await k.ask("hello", system="be brief", stop="x", cls="batch", deadline_s=5)
            pieces = [piece async for piece in k.stream([{"role": "user", "content": "more"}])]
            process = await k.spawn(child)
            await process.stop()
            try:
                await process.wait()
            except aios.ChildFailed as error:
                return [said, pieces, process.name, str(error)]
    """
    async with host(tmp_path, code) as end:
        ask(end, "parent")
        call, request = await heard_call(end)
        assert [message.role for message in request.messages] == ["system", "user"]
        assert (request.stop, call.options.cls) == (("x",), "batch")
        assert call.options.deadline_s is not None and 4 < call.options.deadline_s <= 5, "what is left of it"
        reply(end, call, ANSWER)
        call, _ = await heard_call(end)
        end.say(*(frames.Event(call.id, frames.pack(Delta(text=text))) for text in ("one", " two")))
        reply(end, call, ANSWER)
        call, request = await heard_call(end)
        manifest = request.manifest
        assert (manifest.agent, manifest.entry, manifest.model) == ("child", "child", "fast")
        assert manifest.program == str(tmp_path / "program.py")
        reply(end, call, info("9"))
        call, request = await heard_call(end)
        assert request.signal == "stop"
        reply(end, call, Done())
        call, _ = await heard_call(end)
        reply(end, call, Exit(pid="9", outcome="error", error="ChildFailed", message="ValueError: no"))
        assert result(await end.hear(frames.Answer)) == ["one two", ["one", " two"], "child-9", "ValueError: no"]


async def test_two_hundred_agents_run_at_once_and_one_more_is_refused(tmp_path: Path) -> None:
    async with host(tmp_path, "async def wait(k): return (await k.now())") as end:
        for number in range(1, 202):
            ask(end, "wait", pid=str(number), number=number)
        heard = [await end.hear(object) for _ in range(201)]
        (refused,) = [frame for frame in heard if isinstance(frame, frames.Answer)]
        assert (refused.id, refused.fault and refused.fault.code) == (201, "QueueFull")
        calls = [frame for frame in heard if isinstance(frame, frames.Call)]
        for call in calls:
            reply(end, call, Instant(at_ns=int(call.pid)))
        answers = [await end.hear(frames.Answer) for _ in calls]
        assert sorted(result(answer) for answer in answers) == list(range(1, 201))


@pytest.mark.parametrize("code", ["await asyncio.sleep(1000)", "await asyncio.to_thread(time.sleep, 1000)"])
async def test_a_host_ends_with_its_connection_whatever_its_agents_do(tmp_path: Path, code: str) -> None:
    async with host(tmp_path, f"async def wait(k):\n            print('here')\n            {code}") as end:
        ask(end, "wait")
        await end.hear(frames.Print)


async def test_a_program_called_like_a_module_of_python_is_loaded_all_the_same(tmp_path: Path) -> None:
    async with host(tmp_path, "async def main(k): return asyncio.__name__", "asyncio.py") as end:
        assert await answered(end, "main") == "asyncio"


async def test_a_host_without_a_kernel_says_so_and_fails(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.touch()
    async with kernel_end() as (end, theirs):
        argv = ("-I", "-m", "aios.sdk.host", "--fd", str(theirs.fileno()), str(program))
        child = await asyncio.create_subprocess_exec(sys.executable, *argv, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE)
        theirs.close()
        await end.hear(frames.Hello)
        end.transport.abort()
        _, said = await child.communicate()
        assert (child.returncode, said.decode()) == (1, "the kernel is gone\n")


async def test_tools_run_for_their_agent_in_tasks_and_threads_and_are_cancelled(tmp_path: Path) -> None:
    code = """
        import threading

        @aios.tool
        async def greet(name: str) -> str:
            print("greeting", name)
            return "hello " + name

        @aios.tool
        def where(names: set[str]) -> list:
            print("in a thread")
            return [threading.current_thread() is threading.main_thread(), sorted(names), type(names).__name__]

        @aios.tool
        async def forever() -> None:
            await asyncio.Event().wait()

        @aios.tool
        def leave() -> None:
            sys.exit("enough")

        @aios.agent
        async def main(k):
            await k.do(greet, "Ada")
            try:
                await k.ask("x", tools=[greet, where, forever, leave])
            except aios.Conflict:
                return "ended"
    """
    async with host(tmp_path, code) as end:
        ask(end, "main")
        registering, request = await heard_call(end)
        assert [tool.name for tool in request.tools] == ["greet"]
        reply(end, registering, Done())
        call, request = await heard_call(end)
        assert (request.tool, request.arguments) == ("greet", {"name": "Ada"})
        end.say(frames.RunTool(7, "1", "greet", {"name": "Ada"}))
        said = [await end.hear(object), await end.hear(object)]
        assert {type(frame) for frame in said} == {frames.Print, frames.Answer}
        (answer,) = [frame for frame in said if isinstance(frame, frames.Answer)]
        assert (answer.id, result(answer)) == (7, "hello Ada")
        reply(end, call, ToolResult(value="hello Ada"))
        call, request = await heard_call(end)
        reply(end, call, Done())
        generating, request = await heard_call(end)
        assert [tool.name for tool in request.tools] == ["greet", "where", "forever", "leave"]
        for number, tool, arguments, expected in (
            (8, "where", {"names": ["b", "a", "b"]}, [False, ["a", "b"], "set"]),
            (9, "greet", {"nam": 1}, "Invalid"),
            (10, "nothing", {}, "NotFound"),
            (11, "leave", {}, "ToolFailed"),
        ):
            end.say(frames.RunTool(number, "1", tool, arguments))
            while not isinstance(frame := await end.hear(object), frames.Answer):
                assert isinstance(frame, frames.Print)
            assert frame.id == number and (frame.fault.code if frame.fault else result(frame)) == expected
        end.say(frames.RunTool(12, "1", "forever"), frames.Cancel(12), frames.RunTool(13, "2", "greet", {"name": "x"}))
        answers = {answer.id: answer.fault for answer in (await end.hear(frames.Answer), await end.hear(frames.Answer))}
        assert {number: fault and fault.code for number, fault in answers.items()} == {12: "Cancelled", 13: "NotFound"}
        end.say(frames.Reply(generating.id, fault=Fault("Conflict", "enough")))
        assert result(await end.hear(frames.Answer)) == "ended"


@pytest.mark.parametrize("code", ["next(iter([]))", "sys.exit('enough')", "raise KeyboardInterrupt"])
async def test_what_a_plain_function_raises_reaches_its_caller_and_ends_nothing_else(tmp_path: Path, code: str) -> None:
    source = f"""
        def plain(k):
            {code}

        @aios.tool
        def tool() -> None:
            {code}

        async def main(k):
            return await k.do(tool)

        async def well(k):
            return "well"
    """
    async with host(tmp_path, source) as end:
        ask(end, "plain", pid="1")
        _, answer = await printed_until_answer(end)
        assert answer.fault is not None and answer.fault.code == "ChildFailed" and "program.py, line 6" in answer.fault.message
        ask(end, "main", pid="2", number=2)
        reply(end, (await heard_call(end))[0], Done())
        call, _ = await heard_call(end)
        end.say(frames.RunTool(3, "2", "tool"))
        _, answer = await printed_until_answer(end)
        assert answer.id == 3 and answer.fault is not None and "program.py, line 10" in answer.fault.message
        reply(end, call, ToolResult(value=None))
        assert result(await end.hear(frames.Answer)) is None
        ask(end, "well", pid="3", number=4)
        assert result(await end.hear(frames.Answer)) == "well"
