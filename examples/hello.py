"""An agent that asks the model one thing: `python examples/hello.py`."""

import aios


@aios.agent
async def hello(k: aios.Kernel, name: str) -> str:
    return await k.ask(f"Greet {name} in one sentence.", max_tokens=40)


if __name__ == "__main__":
    print(aios.run(hello, "Ada"))
