"""The door for vectors, with the real SDK and with what other clients are known to send."""

import base64
import struct
from typing import Any

import openai
import pytest
from served import Served, served

from aios.testing import ScriptedEmbedder

pytestmark = pytest.mark.real


def client_of(s: Served, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, **options)


async def test_the_sdk_gets_a_vector_for_each_text() -> None:
    async with served(embedders=(ScriptedEmbedder(),)) as s, client_of(s) as client:
        found = await client.embeddings.create(model="words-1", input=["one two", "three", "one two"])
        assert [each.index for each in found.data] == [0, 1, 2] and found.model == "words-1"
        one, other, again = (each.embedding for each in found.data)
        assert len(one) == 8 and one == again != other
        assert (found.usage.prompt_tokens, found.usage.total_tokens) == (5, 5)


async def test_both_forms_say_the_same() -> None:
    async with served(embedders=(ScriptedEmbedder(),)) as s, client_of(s) as client:
        base64_form = await client.embeddings.create(model="default", input="one two")
        floats = await client.embeddings.create(model="default", input="one two", encoding_format="float")
        assert base64_form.data[0].embedding == floats.data[0].embedding
        async with s.post("/v1/embeddings", {"input": "one two", "model": "words-1", "encoding_format": "base64"}) as answer:
            raw = (await answer.json())["data"][0]["embedding"]
        assert list(struct.unpack("<8f", base64.b64decode(raw))) == floats.data[0].embedding


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]], ids=["one", "several"])
async def test_tokens_of_another_model_are_refused_with_how_to_switch_that_off(tokens: Any) -> None:
    async with served(embedders=(ScriptedEmbedder(),)) as s, client_of(s) as client:
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused:
            await client.embeddings.create(model="words-1", input=tokens)
        assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["x", ""]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x" * 32_769}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": [["x"]]}, "input[0][0]"),
        ({"input": "x", "dimensions": 4}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({}, "input"),
    ],
    ids=range(10),
)
async def test_bad_input_is_refused_with_its_field(fields: dict[str, Any], param: str) -> None:
    async with served(embedders=(ScriptedEmbedder(),)) as s, s.post("/v1/embeddings", {"model": "words-1", **fields}) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (400, param), error
        assert answer.headers["x-should-retry"] == "false"


async def test_a_foreign_models_name_is_refused_with_what_there_is_unless_it_is_an_alias() -> None:
    async with served(embedders=(ScriptedEmbedder(),)) as s, client_of(s) as client:
        with pytest.raises(openai.NotFoundError, match=r"words-1.*\[aliases\]") as refused:
            await client.embeddings.create(model="text-embedding-3-small", input="x")
        assert refused.value.code == "model_not_found"
    aliases = {"text-embedding-3-small": ("words-1",)}
    async with served(embedders=(ScriptedEmbedder(),), aliases=aliases) as s, client_of(s) as client:
        assert (await client.embeddings.create(model="text-embedding-3-small", input="x", dimensions=8)).model == "words-1"
        assert {"words-1", "text-embedding-3-small", "scripted-1"} <= {model.id async for model in client.models.list()}


async def test_a_kernel_without_an_embedder_says_so() -> None:
    async with served() as s, client_of(s) as client:
        with pytest.raises(openai.APIStatusError, match="aios doctor") as refused:
            await client.embeddings.create(model="default", input="x")
        assert refused.value.response.headers["x-should-retry"] == "false"


async def test_many_texts_in_one_body_and_those_that_were_cut() -> None:
    async with served(embedders=(ScriptedEmbedder(window=4),)) as s:
        texts = ["a b c d e f", *(f"text {number}" for number in range(2047))]
        async with s.post("/v1/embeddings", {"input": texts, "model": "default"}) as answer:
            found = await answer.json()
        assert answer.status == 200 and answer.headers["x-aios-cut"] == "1" and answer.headers["x-aios-ticket"]
        assert [each["index"] for each in found["data"]] == list(range(2048))
