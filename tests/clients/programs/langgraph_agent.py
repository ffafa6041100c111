"""LangGraph's agent over `langchain-openai`; it waits by the asynchronous side, which is the impatient one."""

from harness import CHUNK_PATIENCE_S, MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent

model = ChatOpenAI(model=MODEL, timeout=PATIENCE_S, stream_chunk_timeout=CHUNK_PATIENCE_S)
agent = create_react_agent(model, [tool(add)])


def hello():
    return model.invoke(QUESTION).content


def stream():
    return [chunk.content for chunk in model.stream(QUESTION) if chunk.content]


def tools():
    return agent.invoke({"messages": [("user", SUM)]})["messages"][-1].content


async def wait_streaming():
    return "".join([chunk.content async for chunk in model.astream(SLOW)])


def twice():
    return [hello(), hello()]


def conversation():
    """A conversation of many turns: every message must still be there at its end."""
    messages = []
    for _ in range(50):
        messages = agent.invoke({"messages": [*messages, ("user", SUM)]})["messages"]
    return [message.id for message in messages]


play(hello=hello, stream=stream, tools=tools, wait_streaming=wait_streaming, cut=hello, twice=twice, conversation=conversation)
