"""AutoGen's assistant over chat completions."""

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play

info = ModelInfo(vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True)
model = OpenAIChatCompletionClient(model=MODEL, model_info=info, timeout=PATIENCE_S)


async def ask(text):
    return (await model.create([UserMessage(content=text, source="user")])).content


async def pieces(text):
    return [piece async for piece in model.create_stream([UserMessage(content=text, source="user")]) if isinstance(piece, str)]


async def tools():
    agent = AssistantAgent("adder", model, tools=[add], reflect_on_tool_use=True)
    return (await agent.run(task=SUM)).messages[-1].content


async def wait_streaming():
    return "".join(await pieces(SLOW))


async def twice():
    return [await ask(QUESTION), await ask(QUESTION)]


play(
    hello=lambda: ask(QUESTION),
    stream=lambda: pieces(QUESTION),
    tools=tools,
    wait_streaming=wait_streaming,
    cut=lambda: ask(QUESTION),
    twice=twice,
)
