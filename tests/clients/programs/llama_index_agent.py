"""LlamaIndex over chat completions."""

from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model=MODEL, is_chat_model=True, is_function_calling_model=True, context_window=4096, timeout=PATIENCE_S, max_retries=2
)


def hello():
    return model.complete(QUESTION).text


def pieces(text):
    return [piece.delta for piece in model.stream_complete(text) if piece.delta]


async def tools():
    return str(await FunctionAgent(tools=[add], llm=model).run(SUM))


play(
    hello=hello,
    stream=lambda: pieces(QUESTION),
    tools=tools,
    wait_streaming=lambda: "".join(pieces(SLOW)),
    cut=hello,
    twice=lambda: [hello(), hello()],
)
