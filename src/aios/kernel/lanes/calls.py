"""The rows `lane.*`."""

from __future__ import annotations

from collections.abc import Mapping

from aios.abi.errors import NotFound
from aios.abi.event import KernelChanged
from aios.abi.lane import LaneList, LaneState, ListLanes, UseLane
from aios.abi.request import Done
from aios.abi.wire import nearest
from aios.kernel.events import EventLog
from aios.kernel.lanes.lane import Lane, LaneConfig
from aios.kernel.lanes.policies import POLICIES, policy_of
from aios.kernel.process import Call
from aios.kernel.syscall import Syscall


class LaneCalls:
    """Tells of the lanes, and changes who decides. `configs`: by the same names."""

    def __init__(self, lanes: Mapping[str, Lane], configs: Mapping[str, LaneConfig], events: EventLog) -> None:
        self._lanes = lanes
        self._configs = configs
        self._events = events

    def syscalls(self) -> dict[str, Syscall]:
        return {"lane.list": Syscall(self._list), "lane.use": Syscall(self._use)}

    async def _list(self, call: Call) -> LaneList:
        assert isinstance(call.request, ListLanes)
        return LaneList(lanes=tuple(map(state_of, self._lanes.values())), policies=tuple(POLICIES))

    async def _use(self, call: Call) -> Done:
        request = call.request
        assert isinstance(request, UseLane)
        lane = self._lanes.get(request.lane)
        if lane is None:
            known = ", ".join(f"`{name}`" for name in self._lanes)
            raise NotFound(
                f"there is no lane `{request.lane[:80]}`, but {known}{nearest(request.lane, self._lanes)}", field="lane"
            )
        lane.use(policy_of(request.policy, self._configs[request.lane].weights))
        self._events.add(KernelChanged, change="policy", detail=f"{lane.name}: {request.policy}, by {call.process.name}")
        return Done()


def state_of(lane: Lane) -> LaneState:
    """A lane as others see it."""
    servers = lane.servers()
    width, running = sum(server.width for server in servers), sum(server.running for server in servers)
    return LaneState(lane.name, lane.policy.name, width, running, lane.waiting_by_class())
