"""What the `openai` library sends to chat completions: its parameters one by one and in company, and conversations that go on.

Run beside `tap.py`, in an environment that has the library. What only a core of the same wire can do is refused there; it is
recorded all the same.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import openai
import pydantic

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
ASK: Any = [{"role": "user", "content": "How are you?"}]
CITY: Any = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "How the weather is", "parameters": CITY}}
STRICT: Any = {
    "type": "function",
    "function": {"name": "place", "parameters": {**CITY, "additionalProperties": False}, "strict": True},
}
BARE: Any = {"type": "function", "function": {"name": "clock"}}
PATCH: Any = {"type": "custom", "custom": {"name": "patch", "description": "Changes a file", "format": {"type": "text"}}}
SQL: Any = {
    "type": "custom",
    "custom": {"name": "sql", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /.+/"}}},
}
CALLED: Any = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
OTHER: Any = {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


class Town(pydantic.BaseModel):
    city: str
    people: int


def said(*content: Any) -> Any:
    """One turn of the user's, of parts."""
    return {"messages": [{"role": "user", "content": list(content)}]}


def talk(*messages: Any) -> Any:
    return {"messages": [*ASK, *messages]}


def text(words: str, **more: Any) -> Any:
    return {"type": "text", "text": words, **more}


def settings() -> Iterable[dict[str, Any]]:
    yield {}
    yield from ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}})
    yield {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}
    yield {"max_tokens": 20}
    yield {"max_completion_tokens": 20}
    yield {"temperature": 0}
    yield {"temperature": 0.7, "top_p": 0.9, "seed": 7}
    yield {"stop": "\n"}
    yield {"stop": ["\n", "END"]}
    yield {"n": 2}
    yield {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    yield {"logit_bias": {"50256": -100}}
    yield {"logprobs": True}
    yield {"logprobs": True, "top_logprobs": 3}
    yield {"response_format": {"type": "text"}}
    yield {"response_format": {"type": "json_object"}}
    yield {"response_format": {"type": "json_schema", "json_schema": {"name": "town", "schema": CITY, "strict": True}}}
    yield {"reasoning_effort": "low"}
    yield {"reasoning_effort": "minimal", "verbosity": "low"}
    yield {"user": "ann", "safety_identifier": "hash-of-ann"}
    yield {"metadata": {"run": "7", "step": "plan"}, "store": True}
    yield {"store": False, "prompt_cache_key": "thread-1", "prompt_cache_retention": "24h"}
    yield {"service_tier": "flex"}
    yield {"service_tier": "auto"}
    yield {"prediction": {"type": "content", "content": "I am well"}}
    yield {"modalities": ["text"]}
    yield {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    yield {"web_search_options": {"search_context_size": "low"}}
    yield {"extra_body": {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}}
    yield {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}, "guided_json": CITY}}
    yield {
        "extra_body": {"reasoning": {"effort": "high", "exclude": False}, "provider": {"order": ["a"], "allow_fallbacks": False}}
    }
    yield {"extra_body": {"aios": {"class": "batch", "deadline_s": 60}}}
    yield {"extra_body": {"nothing": None, "empty": {}, "list": []}}


def tools() -> Iterable[dict[str, Any]]:
    yield {"tools": [WEATHER]}
    yield {"tools": [WEATHER, STRICT, BARE], "tool_choice": "auto", "parallel_tool_calls": False}
    yield {"tools": [WEATHER], "tool_choice": "required"}
    yield {"tools": [WEATHER], "tool_choice": "none", "stream": True}
    yield {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    yield {"tools": [PATCH]}
    yield {"tools": [WEATHER, SQL], "tool_choice": {"type": "custom", "custom": {"name": "sql"}}}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    yield {"tools": [WEATHER, PATCH], "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}
    yield {"tools": [{"type": "web_search", "search_context_size": "low"}, WEATHER]}
    yield {"tools": [openai.pydantic_function_tool(Town)]}
    yield {"tools": [{**WEATHER, "cache_control": {"type": "ephemeral"}}]}


def conversations() -> Iterable[dict[str, Any]]:
    yield {"messages": [{"role": "system", "content": "Be brief."}, *ASK]}
    yield {"messages": [{"role": "developer", "content": "Be brief."}, *ASK]}
    yield {"messages": [{"role": "system", "content": [text("Be brief.", cache_control={"type": "ephemeral"})]}, *ASK]}
    yield {"messages": [{"role": "user", "content": "Hi", "name": "ann"}]}
    yield said(text("only text"))
    yield said(text("one"), text("two"))
    yield said(text("see"), {"type": "image_url", "image_url": {"url": PNG}})
    yield said(text("see"), {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png", "detail": "low"}})
    yield said(text("hear"), {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})
    yield said({"type": "file", "file": {"file_id": "file-1"}}, text("read it"))
    yield said({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}}, text("read"))
    yield said({"type": "video_url", "video_url": {"url": "https://films.example/a.mp4"}}, text("look"))
    yield said(text('ünïcode 😀 \u2028 \x7f \\ " / \t'))
    yield talk({"role": "assistant", "content": "Well."}, {"role": "user", "content": "Good."})
    yield talk({"role": "assistant", "content": [text("Well.")]}, {"role": "user", "content": "Good."})
    yield talk({"role": "assistant", "content": [{"type": "refusal", "refusal": "I do not say."}]}, *ASK)
    yield talk({"role": "assistant", "content": None, "refusal": "I do not say."}, *ASK)
    yield talk({"role": "assistant", "audio": {"id": "audio_1"}}, *ASK)
    yield talk({"role": "assistant", "content": "Well.", "reasoning_content": "They ask how I am."}, *ASK)
    details = [{"type": "reasoning.encrypted", "data": "EqQB", "id": "rs_1", "format": "x", "index": 0}]
    yield talk({"role": "assistant", "content": "Well.", "reasoning_details": details}, *ASK)
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    yield talk({"role": "assistant", "content": None, "tool_calls": [CALLED]}, result) | {"tools": [WEATHER]}
    yield talk({"role": "assistant", "tool_calls": [CALLED]}, {**result, "content": [text("sunny")]}) | {"tools": [WEATHER]}
    second = {"role": "tool", "tool_call_id": "call_2", "content": "noon"}
    yield talk({"role": "assistant", "content": "I look.", "tool_calls": [CALLED, OTHER]}, result, second) | {
        "tools": [WEATHER, BARE]
    }
    signed = {**CALLED, "extra_content": {"google": {"thought_signature": "CvcB"}}}
    yield talk({"role": "assistant", "tool_calls": [signed]}, result) | {"tools": [WEATHER], "reasoning_effort": "low"}
    patched = {"id": "call_3", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    yield talk({"role": "assistant", "tool_calls": [patched]}, {**result, "tool_call_id": "call_3"}) | {"tools": [PATCH]}
    prefix = {"role": "assistant", "content": "I am", "prefix": True}
    yield talk(prefix)


def go_on(client: openai.OpenAI) -> None:
    """Conversations that give back what was answered, as the library's own types write it."""
    answer = client.chat.completions.create(model="default", messages=ASK)
    again: Any = [*ASK, answer.choices[0].message.model_dump(), *ASK]
    client.chat.completions.create(model="default", messages=again)
    again = [*ASK, answer.choices[0].message, *ASK]
    client.chat.completions.create(model="default", messages=again)
    asked: Any = {"model": "default", "messages": ASK, "tools": [WEATHER]}
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    client.chat.completions.create(**{**asked, "messages": [*ASK, message.model_dump(), *results]})
    client.chat.completions.create(**{**asked, "messages": [*ASK, message.model_dump(exclude_none=True), *results]})
    client.chat.completions.parse(model="default", messages=ASK, response_format=Town)
    with client.chat.completions.stream(model="default", messages=ASK, response_format=Town) as stream:
        stream.get_final_completion()
    with client.chat.completions.stream(**asked, n=1, temperature=0.2) as stream:
        stream.get_final_completion()


def main(address: str, token: str) -> None:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=token, max_retries=0) as client:
        for fields in (*settings(), *tools(), *conversations()):
            with suppress(openai.BadRequestError):
                answer: Any = client.chat.completions.create(**{"model": "default", "messages": ASK, **fields})
                if fields.get("stream"):
                    list(answer)
        go_on(client)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
