"""What we ship for tests: stand-ins and virtual time, the same that test AIOS itself."""

from aios.drivers.core.scripted import Script, ScriptedCore, ScriptedStatistics
from aios.drivers.embed.scripted import ScriptedEmbedder
from aios.testing.agents import Scripted, calls, scripted
from aios.testing.virtual import Deadlock, VirtualLoop, run_virtual, time

__all__ = [
    "Deadlock",
    "Script",
    "Scripted",
    "ScriptedCore",
    "ScriptedEmbedder",
    "ScriptedStatistics",
    "VirtualLoop",
    "calls",
    "run_virtual",
    "scripted",
    "time",
]
