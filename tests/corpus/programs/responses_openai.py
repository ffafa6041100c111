"""What programs do with `client.responses` of the `openai` package."""

import openai
import pydantic

client = openai.OpenAI()
create = client.responses.create
WEATHER = {
    "type": "function", "name": "weather", "description": "The weather of a city.", "strict": True,
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"],
        "additionalProperties": False,
    },
}  # fmt: skip
LOOSE = {"type": "function", "name": "note", "description": None, "parameters": None, "strict": False}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Forecast(pydantic.BaseModel):
    city: str
    days: int


QUESTION = "What is the weather in Bern?"
TURNS = [
    {"role": "developer", "content": "Answer briefly."},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "It is sunny."},
    {"role": "user", "content": "And tomorrow?"},
]

SETTINGS = [
    {"instructions": "Answer briefly."},
    {"instructions": "Réponds en français: où pleut-il? ☔", "input": "日本語で答えて。\n\t\"quoted\" \\ and \u2028 lines"},
    {"temperature": 0.2, "top_p": 0.9},
    {"temperature": 0, "max_output_tokens": 50},
    {"metadata": {"run": "17", "team": "weather"}, "user": "somebody"},
    {"safety_identifier": "hash-of-somebody", "prompt_cache_key": "weather-talk"},
    {"prompt_cache_retention": "24h"},
    {"store": False},
    {"store": True, "include": ["reasoning.encrypted_content"]},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
    {"include": ["file_search_call.results", "web_search_call.action.sources"]},
    {"reasoning": {"effort": "low", "summary": "auto"}},
    {"reasoning": {"effort": "none"}},
    {"text": {"verbosity": "low"}},
    {"text": {"format": {"type": "text"}}},
    {"text": {"format": {"type": "json_object"}}},
    {"text": {"format": {"type": "json_schema", "name": "forecast", "schema": Forecast.model_json_schema(), "strict": False}}},
    {"service_tier": "flex"},
    {"service_tier": "auto", "truncation": "disabled"},
    {"truncation": "auto"},
    {"stream_options": {"include_obfuscation": False}, "stream": True},
    {"max_tool_calls": 3, "parallel_tool_calls": False},
    {"context_management": [{"type": "compaction", "compact_threshold": 100000}]},
    {"extra_body": {"aios": {"class": "batch", "deadline_s": 60}, "top_k": 5}},
    {"input": [{"role": "user", "content": QUESTION}]},
    {"input": TURNS},
    {"input": [{"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}, *TURNS[1:]]},
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": "One."}, {"type": "input_text", "text": "Two."}]}]},
    {"input": [{"role": "user", "content": [
        {"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PIXEL, "detail": "low"}]}]},
    {"input": [*TURNS[1:2], {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {
        "type": "search", "query": "weather"}}, *TURNS[2:]]},
    {"input": [*TURNS[1:2], {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look it up."}],
                             "encrypted_content": "c2VhbGVk"}, *TURNS[2:]]},
    {"tools": [WEATHER]},
    {"tools": [WEATHER, LOOSE], "tool_choice": "required"},
    {"tools": [WEATHER], "tool_choice": "none"},
    {"tools": [WEATHER, LOOSE], "tool_choice": {"type": "function", "name": "weather"}},
    {"tools": [WEATHER, LOOSE], "tool_choice": {
        "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}},
    {"tools": [{"type": "web_search", "search_context_size": "low", "user_location": {"type": "approximate", "city": "Bern"}}]},
    {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 2}, WEATHER]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "image_generation", "quality": "low"}]},
    {"tools": [{"type": "mcp", "server_label": "docs", "server_url": "https://example.org/mcp", "require_approval": "never"}]},
    {"tools": [{"type": "custom", "name": "shell", "description": "Any text.", "format": {"type": "text"}}]},
    {"tools": [{"type": "namespace", "name": "town", "description": "Of a town.", "tools": [WEATHER]}, {"type": "local_shell"}]},
    {"tools": [WEATHER], "tool_choice": {"type": "web_search_preview"}},
]  # fmt: skip

for fields in SETTINGS:
    answer = create(**{"model": "default", "input": QUESTION, **fields})
    if isinstance(answer, openai.Stream):
        assert [event.type for event in answer][-1] == "response.completed"
    else:
        assert answer.status == "completed"

# a loop with a function, told whole, then by reference, then by the id of the answer
asked = create(model="default", input=QUESTION, tools=[WEATHER])
calls = [item for item in asked.output if item.type == "function_call"]
results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
question = {"role": "user", "content": QUESTION}
create(model="default", input=[question, *asked.output, *results], tools=[WEATHER])
create(model="default", input=[question, *[{"type": "item_reference", "id": item.id} for item in asked.output], *results])
answered = create(model="default", input=results, previous_response_id=asked.id, tools=[WEATHER])
create(model="default", input="And tomorrow?", previous_response_id=answered.id, store=False)
parts = [{"type": "input_text", "text": "sunny"}, {"type": "input_image", "image_url": PIXEL, "detail": "auto"}]
create(model="default", previous_response_id=asked.id, input=[{**results[0], "output": parts}])

# answers with their reasoning sent back
create(model="default", input=[question, *answered.output, {"role": "user", "content": "Why?"}])

# typed answers, and the helper for streams
assert client.responses.parse(model="default", input=QUESTION, text_format=Forecast).output_parsed.city == "Bern"
with client.responses.stream(model="default", input=QUESTION, text_format=Forecast) as stream:
    assert stream.get_final_response().output_parsed.days == 3
with client.responses.stream(model="default", input=QUESTION, tools=[openai.pydantic_function_tool(Forecast)["function"] | {
    "type": "function"}]) as stream:  # fmt: skip
    assert stream.get_final_response().output[-1].parsed_arguments

# in the background
begun = create(model="default", input=QUESTION, background=True)
create(model="default", input="Again: " + QUESTION, background=True, stream=True).close()
client.responses.cancel(begun.id)

# counting
client.responses.input_tokens.count(model="default", input=TURNS, instructions="Answer briefly.", tools=[WEATHER])
client.responses.input_tokens.count(model="default", input="And?", previous_response_id=answered.id)
