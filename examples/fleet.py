"""An agent that starts others, in processes of their own, and gathers what they return: `python examples/fleet.py`."""

import aios


@aios.agent(cls="batch")
async def describe(k: aios.Kernel, thing: str) -> str:
    answer = await k.ask(f"Describe a {thing} in one sentence.", max_tokens=40)
    print(f"{thing}: done")
    return answer


@aios.agent(grants=("use /llm/*", "spawn /agents/describe"))
async def fleet(k: aios.Kernel, things: list[str]) -> dict[str, str]:
    return dict(zip(things, await k.map(describe, things), strict=True))


if __name__ == "__main__":
    for thing, answer in aios.run(fleet, ["river", "kettle", "comet", "violin"]).items():
        print(f"{thing:8} {answer}")
