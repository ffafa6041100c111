"""What is spent is on the disk before it is."""

import asyncio
import json
from pathlib import Path

import pytest

from aios.abi.account import SetLimit
from aios.abi.errors import Unavailable
from aios.abi.llm import Completion, Generate
from aios.ports.core import CoreCall, Emit, Price
from aios.spending import FILE_NAME, Spending
from aios.testing import ScriptedCore
from aios.testing.kernel import kernel_for_tests

pytestmark = pytest.mark.real

ONE = Generate(prompt="hello", max_tokens=4)


class Covered(ScriptedCore):
    """Asks for nothing before it is covered, and notes what the disk has of it then."""

    def __init__(self, home: Path) -> None:
        super().__init__("one", price=Price(input=1000, output=1000), slots=64)
        self.home, self.stood, self.spending = home, list[int](), None

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        assert isinstance(self.spending, Spending)
        await self.spending.cover()
        self.stood.append(json.loads((self.home / FILE_NAME).read_text())["money"]["lifetime"])
        return await super().generate(call, emit)


async def test_calls_that_come_together_are_all_covered(tmp_path: Path) -> None:
    core = Covered(tmp_path)
    async with kernel_for_tests([core]) as k:
        core.spending = spending = Spending(k.kernel, tmp_path)
        await k.operator.call(SetLimit(account="/", unit="money", amount=10**12))
        gate = await k.session()
        async with spending.kept():
            await asyncio.gather(*(gate.call(ONE) for _ in range(30)))
        each = (512 + 5 + 4) * 1000
        assert len(core.stood) == 30 and min(core.stood) >= each
        assert json.loads((tmp_path / FILE_NAME).read_text())["money"]["lifetime"] == spending.now().money["lifetime"] > 0
        with pytest.raises(Unavailable, match="goes down"):
            await spending.cover()


async def test_where_the_disk_takes_nothing_nothing_is_asked_and_nothing_charged(tmp_path: Path) -> None:
    core = Covered(tmp_path / "gone")
    async with kernel_for_tests([core]) as k:
        core.spending = spending = Spending(k.kernel, tmp_path / "gone")
        await k.operator.call(SetLimit(account="/", unit="money", amount=10**12))
        gate = await k.session()
        with pytest.raises(Unavailable, match="cannot be written"):
            async with spending.kept():
                with pytest.raises(Unavailable, match="cannot be written"):
                    await gate.call(ONE)
                assert core.stood == [] and spending.now().money["lifetime"] == 0
                (tmp_path / "gone").mkdir()
                await gate.call(ONE)
                assert len(core.stood) == 1
                (tmp_path / "gone" / FILE_NAME).unlink()
                (tmp_path / "gone").rmdir()
