"""CrewAI: its model by itself, and an agent with a tool. It takes models of names that it knows, so the kernel has an alias."""

from crewai import LLM, Agent
from crewai.tools import tool
from harness import FOREIGN_MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play

options = {"model": f"openai/{FOREIGN_MODEL}", "timeout": PATIENCE_S}


@tool("add")
def plus(a: int, b: int) -> int:
    """Add two numbers."""
    return add(a, b)


def hello():
    return LLM(**options).call(QUESTION)


def tools():
    agent = Agent(role="adder", goal="add", backstory="it adds", tools=[plus], llm=LLM(**options))
    return agent.kickoff(SUM).raw


def streamed(text):
    return LLM(**options, stream=True).call(text)


play(
    hello=hello,
    stream=lambda: [streamed(QUESTION), ""],
    tools=tools,
    wait_streaming=lambda: streamed(SLOW),
    cut=hello,
    twice=lambda: [hello(), hello()],
)
