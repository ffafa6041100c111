"""No call of the unmodified `anthropic` SDK is paid twice, wherever its connections break."""

import asyncio
import json
from pathlib import Path

import pytest
from served import served
from test_repeats import CUT_CALLS, cut

from aios.testing import Script, ScriptedCore

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / ".clients" / "anthropic" / "bin" / "python"
PROGRAM = ROOT / "tests" / "clients" / "programs" / "anthropic_many.py"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("at", ["asked", "begun", "half", "answered"])
async def test_a_cut_connection_is_one_upstream_call(at: str) -> None:
    assert CLIENT.exists(), "the client is not there: `python3 tools/clients.py anthropic` makes it"
    core = ScriptedCore(lambda call: Script(text=f"answer {call.request.messages[0].content}", first_s=0.02), slots=64)
    calls = CUT_CALLS // 4
    async with served(core) as s, cut(s, at) as cutter:
        env = {
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{cutter.port}", "ANTHROPIC_API_KEY": s.token, "CALLS": str(calls),
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        child = await asyncio.create_subprocess_exec(CLIENT, PROGRAM, "many", env=env, stdout=asyncio.subprocess.PIPE)
        try:
            said, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
        assert json.loads(said)["value"] == [f"answer {number}" for number in range(calls)]
        assert (cutter.cuts, core.statistics().started) == (calls, calls)
