"""Two agents that ask each other by mail: `python examples/library.py`."""

import aios


@aios.agent
async def librarian(k: aios.Kernel) -> int:
    """Answers questions until it is told to stop; every value that it gets says by itself who sent it."""
    answered = 0
    while True:
        mail = await k.receive()
        if not mail.asks:
            return answered
        print(f"{mail.name} asks: {mail.value}")
        await mail.reply(await k.ask(f"Answer in one sentence: {mail.value}", max_tokens=30))
        answered += 1


@aios.agent(grants=("use /llm/*", "spawn /agents/librarian"))
async def library(k: aios.Kernel, questions: list[str]) -> dict[str, str]:
    desk = await k.spawn(librarian)
    answers = {question: await k.request(desk, question, timeout_s=300) for question in questions}
    await k.send(desk, "closing time")
    print(f"{await desk.wait()} questions answered")
    return answers


if __name__ == "__main__":
    for question, answer in aios.run(library, ["What is a river?", "What is a comet?"]).items():
        print(f"{question} {answer}")
