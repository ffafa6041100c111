"""An agent that knows nothing of AIOS, in a loop with a tool: `aios run -- python examples/unmodified.py`."""

import json
import sys
import urllib.request

import openai

client = openai.OpenAI()
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "city", "schema": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome", "Lima"]}},
                                               "required": ["city"], "additionalProperties": False}},
}  # fmt: skip


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def choose(text: str) -> str:
    answer = client.chat.completions.create(model="default", messages=question(text), response_format=FORM, max_tokens=30)
    return str(json.loads(answer.choices[0].message.content)["city"])


def tell(city: str) -> None:
    """Streams, as it would anywhere."""
    asked = question(f"One sentence about {city}.")
    for piece in client.chat.completions.create(model="default", messages=asked, max_tokens=40, stream=True):
        if piece.choices:
            print(piece.choices[0].delta.content or "", end="")
    print()


def call_home() -> None:
    """What no framework should do, and some do: the kernel denies it, and `aios events` shows it."""
    try:
        urllib.request.urlopen("https://telemetry.example.com/v1/traces", timeout=5)
    except OSError as error:
        print(f"telemetry: {error}")


if __name__ == "__main__":
    city = choose(sys.argv[1] if len(sys.argv) > 1 else "Where shall we go?")
    print(city)
    tell(city)
    call_home()
