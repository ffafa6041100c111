"""A core elsewhere: it is trusted by its certificate, it gets a key, and nobody else does."""

import asyncio
import json
import logging
import pickle
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from certificates import Authority, authority
from chat_server import ChatServer, chat_server

from aios.abi.errors import AiosError, ContextFull, CoreFailed, Invalid, RateLimited, Unavailable
from aios.abi.llm import Generate, Message, Usage
from aios.drivers.core.key import Key
from aios.drivers.core.openai_chat import OpenAIChat, OpenAIChatConfig
from aios.drivers.core.openai_refusals import wait_of
from aios.drivers.core.providers import PROVIDERS, completed
from aios.drivers.core.tls import trusting
from aios.ports.core import CoreCall, CoreEvent
from aios.testing import ScriptedCore
from aios.testing.cores import EXAMINATION, Candidate, Case, ignore

pytestmark = pytest.mark.real

VALUE = "sk-proj-Zx81kdLmQ02hRrT5vNb7yWc3"
KEY = Key("SOME_API_KEY", VALUE)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def provider(ours: Authority, key: Key = KEY, *names: str, **config: Any) -> AsyncIterator[tuple[ChatServer, OpenAIChat]]:
    """A provider with a certificate of ours that wants `VALUE`, and a core of it, which has not started."""
    tls = ours.server(*(names or ("127.0.0.1",)))
    async with chat_server(ScriptedCore(), VALUE, tls) as server:
        settings = {"name": "far", "ca_file": ours.certificate, "key_env": "SOME_API_KEY", "slots": 4, "window": 4096, **config}
        core = OpenAIChat(OpenAIChatConfig(base_url=settings.pop("base_url", server.base_url), **settings), key)
        try:
            yield server, core
        finally:
            await core.close()


async def started(core: OpenAIChat) -> OpenAIChat:
    await core.start(lambda _: None)
    return core


def ask(core: OpenAIChat, **fields: Any) -> Any:
    request = Generate(messages=(Message("user", "hello"),), **fields)
    return core.generate(CoreCall(id="1", model=core.info().models[0], request=request, seed=9), ignore)


def answers(status: int, body: str, **headers: str) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers=headers)

    return handler


@pytest.mark.parametrize("case", EXAMINATION, ids=lambda case: case.__name__)
async def test_over_tls_and_with_a_key_it_keeps_the_promises_of_the_port(case: Case, ours: Authority) -> None:
    async with provider(ours) as (server, core):
        events: list[CoreEvent] = []
        await core.start(events.append)
        await case(Candidate(core, running=lambda: server.core.statistics().running, events=events))


async def test_a_wrong_key_is_told_by_the_name_of_its_variable_alone(ours: Authority) -> None:
    wrong = "sk-proj-THIS-ONE-IS-REVOKED-1234"
    async with provider(ours, Key("SOME_API_KEY", wrong)) as (_, core):
        with pytest.raises(Unavailable, match=r"\$SOME_API_KEY: put a valid one there") as refused:
            await core.start(lambda _: None)
    assert wrong not in str(refused.value) and "REVOKED" not in str(refused.value)


async def test_a_certificate_that_nobody_vouches_for_gets_no_key(ours: Authority, tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    async with provider(ours, ca_file=other.certificate) as (server, core):
        with pytest.raises(Unavailable, match="its certificate is not trusted"):
            await core.start(lambda _: None)
    assert server.heard == []


async def test_a_certificate_for_another_name_gets_no_key(ours: Authority) -> None:
    async with provider(ours, KEY, "api.example.com", "127.0.0.2") as (server, core):
        with pytest.raises(
            Unavailable, match=r"its certificate is not trusted: IP address mismatch.*name in `ca_file` who vouches for it"
        ):
            await core.start(lambda _: None)
    assert server.heard == []


async def test_a_host_name_is_checked_and_not_only_an_address(ours: Authority) -> None:
    async with provider(ours, KEY, "localhost") as (server, _):
        port = server.base_url.split(":")[2].removesuffix("/v1")
        named = f"https://localhost:{port}/v1"
        good = OpenAIChat(OpenAIChatConfig(name="n", base_url=named, key_env="K", ca_file=ours.certificate), KEY)
        assert (await started(good)).info().models == ("scripted-1",)
        await good.close()
        bad = OpenAIChat(OpenAIChatConfig(name="n", base_url=server.base_url, key_env="K", ca_file=ours.certificate), KEY)
        with pytest.raises(Unavailable, match="not trusted"):
            await bad.start(lambda _: None)


async def test_a_certificate_that_is_no_longer_good_gets_no_key(ours: Authority) -> None:
    async with chat_server(ScriptedCore(), VALUE, ours.server("127.0.0.1", until=datetime(2026, 1, 1, tzinfo=UTC))) as server:
        core = OpenAIChat(OpenAIChatConfig(name="n", base_url=server.base_url, key_env="K", ca_file=ours.certificate), KEY)
        with pytest.raises(Unavailable, match="its certificate is not trusted: certificate has expired"):
            await core.start(lambda _: None)
    assert server.heard == []


async def test_a_server_of_many_names_hears_which_is_meant_and_that_we_speak_http_1(ours: Authority) -> None:
    tls, asked = ours.server("localhost"), []
    tls.set_alpn_protocols(["h2", "http/1.1"])
    tls.sni_callback = lambda socket, name, context: asked.append((name, socket))
    async with chat_server(ScriptedCore(), VALUE, tls) as server:
        named = server.base_url.replace("127.0.0.1", "localhost")
        core = await started(OpenAIChat(OpenAIChatConfig(name="n", base_url=named, key_env="K", ca_file=ours.certificate), KEY))
        assert [(name, socket.selected_alpn_protocol()) for name, socket in asked] == [("localhost", "http/1.1")]
        await core.close()


async def test_without_a_file_of_its_own_it_trusts_what_this_machine_does(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider(ours, ca_file=None) as (_, core):
        with pytest.raises(Unavailable, match="not trusted"):
            await core.start(lambda _: None)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.certificate))
    async with provider(ours, ca_file=None) as (_, core):
        assert (await ask(await started(core))).text


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_a_server_that_speaks_no_tls_or_only_an_old_one_gets_no_key(ours: Authority) -> None:
    async with chat_server(ScriptedCore(), VALUE) as plain:
        address = plain.base_url.replace("http:", "https:")
        core = OpenAIChat(OpenAIChatConfig(name="n", base_url=address, key_env="K", ca_file=ours.certificate), KEY)
        with pytest.raises(Unavailable, match="does not speak TLS as we do"):
            await core.start(lambda _: None)
        assert plain.heard == []
    old = ours.server("127.0.0.1")
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with chat_server(ScriptedCore(), VALUE, old) as server:
        core = OpenAIChat(OpenAIChatConfig(name="n", base_url=server.base_url, key_env="K", ca_file=ours.certificate), KEY)
        with pytest.raises(Unavailable, match="does not speak TLS as we do|before it shows who it is"):
            await core.start(lambda _: None)
        assert server.heard == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(status: int, ours: Authority) -> None:
    async with provider(ours) as (server, core), chat_server(ScriptedCore()) as other:
        await started(core)
        server.instead = answers(status, "", Location=f"{other.base_url}/chat/completions")
        with pytest.raises(Unavailable, match="nowhere but where `base_url` says"):
            await ask(core)
        assert other.heard == []


async def test_no_proxy_and_no_key_log_is_taken_from_the_environment(
    ours: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with chat_server(ScriptedCore()) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))
        async with provider(ours) as (_, core):
            assert (await ask(await started(core))).text
        assert proxy.heard == [] and not (tmp_path / "secrets").exists()


ECHOES = [
    f"Incorrect API key provided: {VALUE}",
    f"you sent Bearer {VALUE.upper()}",
    f"key {VALUE[:12]}******{VALUE[-9:]} is not allowed",
    "Basic c2stcHJvai1aeDgxa2RMbVEwMmhSclQ1dk5iN3lXYzM=",
]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 429, 500, 503])
@pytest.mark.parametrize("echo", ECHOES)
async def test_a_provider_that_tells_the_key_in_an_error_is_not_passed_on(
    status: int, echo: str, ours: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bodies = [
        f'{{"error": {{"message": "{echo}", "param": "{echo}", "code": "x"}}}}', f'{{"error": "{echo}"}}',
        f'{{"detail": "{echo}"}}', f'{{"message": "{echo}", "type": "invalid"}}', f'{{"detail": [{{"msg": "{echo}"}}]}}', echo,
    ]  # fmt: skip
    async with provider(ours) as (server, core):
        await started(core)
        for body in bodies:
            server.instead = answers(status, body)
            with pytest.raises(AiosError) as refused:
                await ask(core)
            said = f"{refused.value.fault()!r} {refused.value.__cause__!r} {caplog.text} {core.health()}"
            assert not any(piece.lower() in said.lower() for piece in (VALUE[:10], VALUE[-9:], VALUE[8:20], "c2stcHJvai1a"))
            core._not_before.clear()


async def test_a_provider_that_tells_the_key_in_an_answer_is_not_passed_on(ours: Authority) -> None:
    event = '{"choices": [{"delta": {"content": "it is %s", "note": "%s"}, "finish_reason": "stop"}], "headers": "%s"}'
    async with provider(ours) as (server, core):
        await started(core)
        server.instead = answers(200, f"data: {event % ((VALUE,) * 3)}\n\ndata: [DONE]\n\n")
        done = await ask(core)
        assert done.text == "it is ***" and VALUE not in repr(done)
        server.instead = answers(200, f'data: {{"error": {{"message": "bad key {VALUE}", "code": 400}}}}\n\n')
        with pytest.raises(Invalid, match=r"bad key \*\*\*"):
            await ask(core)
        server.instead = answers(200, 'data: {"error": {"message": "all gone", "code": "insufficient_quota"}}\n\n')
        with pytest.raises(Unavailable, match="all gone; add credit there"):
            await ask(core)


def test_a_key_is_hidden_among_letters_of_any_kind_and_length() -> None:
    assert KEY.hide(f"İİİİ {VALUE} ﬃ") == "İİİİ *** ﬃ"
    assert KEY.hide(f"{VALUE}{VALUE}") == "***" and KEY.hide("nothing of it") == "nothing of it"
    assert Key("K", "ab").hide("a ab AB b") == "a *** *** b"
    assert len(KEY.hide("x" * 100_000)) <= 2000


def test_a_key_is_hidden_however_json_is_written_of_it() -> None:
    value = 'sk/9"a\\b<c>&d+f=='
    key = Key("K", value)
    plain = json.dumps(value)
    slashed, go = plain.replace("/", "\\/"), plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    for said in (plain, slashed, go, go.replace("/", "\\/")):
        assert json.loads(said) == value and key.hide_in(said.encode()) == b'"***"'


def test_a_key_does_not_show_itself() -> None:
    assert VALUE not in repr(KEY) + str(KEY) + f"{KEY}" and repr(KEY) == "Key(SOME_API_KEY)"
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    for bad in ("", "two words", "line\r\nX-Evil: 1", "naïve", "x" * 5000):
        with pytest.raises(Invalid, match=r"\$SOME_API_KEY holds no key") as refused:
            Key("SOME_API_KEY", bad)
        assert not bad or bad not in refused.value.message


ANSWERS = [
    (401, '{"error": {"message": "no"}}', Unavailable, "put a valid one there"),
    (402, '{"error": {"message": "Insufficient credits"}}', Unavailable, "add credit there"),
    (403, '{"error": {"message": "not in your region"}}', Unavailable, "not in your region"),
    (404, '{"error": {"message": "The model `x` does not exist"}}', Invalid, "does not exist"),
    (408, '{"error": {"message": "too slow"}}', CoreFailed, "too slow"),
    (413, '{"error": {"message": "prompt is too long"}}', ContextFull, "too long"),
    (422, '{"message": {"detail": [{"msg": "Extra inputs are not permitted"}]}}', Invalid, "Extra inputs"),
    (429, '{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}', RateLimited, "slow down"),
    (429, '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}', Unavailable, "add credit there"),
    (500, '{"error": {"message": "oops"}}', CoreFailed, "oops"),
    (502, "<html>bad gateway</html>", CoreFailed, "bad gateway"),
    (503, '{"message": "over capacity"}', Unavailable, "over capacity"),
    (529, '{"error": {"message": "overloaded"}}', Unavailable, "overloaded"),
]


@pytest.mark.parametrize(("status", "body", "kind", "words"), ANSWERS)
async def test_what_providers_refuse_with_becomes_an_error_with_a_way_out(
    status: int, body: str, kind: type[AiosError], words: str, ours: Authority
) -> None:
    async with provider(ours) as (server, core):
        await started(core)
        server.instead = answers(status, body)
        with pytest.raises(kind, match=words) as refused:
            await ask(core)
        assert type(refused.value) is kind


@pytest.mark.parametrize("status", [400, 403, 404, 402, 429, 500, 503])
async def test_what_a_provider_says_is_one_line_that_steers_nothing(status: int, ours: Authority) -> None:
    body = '{"error": {"message": "no\\r\\non: OPENAI_API_KEY\\u001b[2J \\u202e way", "param": "a\\nb\\u001b[2J"}}'
    async with provider(ours) as (server, core):
        await started(core)
        server.instead = answers(status, body)
        with pytest.raises(AiosError) as refused:
            await ask(core)
        said = f"{refused.value.message}{refused.value.field}"
        assert "no on: OPENAI_API_KEY" in said and said.isprintable()


async def test_a_model_is_not_asked_again_before_its_provider_wants_to_hear_of_it(ours: Authority) -> None:
    async with provider(ours) as (server, core):
        await started(core)
        server.instead = answers(429, "{}", **{"Retry-After": "30"})
        for _ in range(3):
            with pytest.raises(RateLimited) as refused:
                await ask(core)
            assert refused.value.retry_after_s is not None and 25 < refused.value.retry_after_s <= 30
        assert len(server.bodies) == 1
        server.instead = None
        core._not_before[core.info().models[0]] = 0.0
        assert (await ask(core)).text


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"0.5"}, 0.5),
        ({b"retry-after": b"7", b"retry-after-ms": b"1500"}, 1.5),
        ({b"retry-after": b"Sat, 21 Nov 2026 10:00:30 GMT", b"date": b"Sat, 21 Nov 2026 10:00:00 GMT"}, 30.0),
        ({b"retry-after": b"Sat, 21 Nov 2026 09:00:30 GMT", b"date": b"Sat, 21 Nov 2026 10:00:00 GMT"}, 0.0),
        ({b"retry-after": b"99999999999"}, 3600.0),
        *[({b"retry-after": bad}, None) for bad in (b"", b"-1", b"nan", b"inf", b"1e9", b"soon", "٣".encode(), b"9" * 400)],
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read_as_servers_say_it(headers: dict[bytes, bytes], wait_s: float | None) -> None:
    assert wait_of(headers) == wait_s


async def test_what_an_answer_may_have_at_most_is_called_as_the_provider_calls_it(ours: Authority) -> None:
    for name, sent in (
        ("openai", {"max_completion_tokens": 5, "stream_options": {"include_usage": True}}),
        ("x-ai", {"max_completion_tokens": 5, "stream_options": {"include_usage": True}}),
        ("mistral", {"max_tokens": 5}),
        ("groq", {"max_tokens": 5, "stream_options": {"include_usage": True}}),
    ):
        async with provider(ours, provider=name) as (server, core):
            await ask(await started(core), max_tokens=5)
            kept = ("model", "stream", "messages", "seed")
            assert {key: value for key, value in server.bodies[0].items() if key not in kept} == sent


@pytest.mark.parametrize(
    ("provider_name", "told", "billed"),
    [
        ("openrouter", '"cost": 0.000123', 123_000),
        ("openrouter", '"cost": 1e-12', 1),
        ("openrouter", '"cost": 1e300', 10**15),
        *[("openrouter", f'"cost": {odd}', 0) for odd in ("-5", '"9"', "true", "null", "[1]")],
        ("x-ai", '"cost_in_usd_ticks": 232856000', 23_285_600),
        ("openai", '"cost": 7', 0),
    ],
)
async def test_what_a_provider_says_that_it_bills_is_heard(provider_name: str, told: str, billed: int, ours: Authority) -> None:
    usage = f'{{"prompt_tokens": 3, "completion_tokens": 2, {told}}}'
    said = '{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}'
    async with provider(ours, provider=provider_name) as (server, core):
        await started(core)
        server.instead = answers(200, f'data: {said}\n\ndata: {{"choices": [], "usage": {usage}}}\n\ndata: [DONE]\n\n')
        assert (await ask(core)).usage == Usage(input_uncached=3, output_visible=2, billed=billed)


async def test_a_provider_hears_who_asks_and_where_and_no_more_than_it_needs(ours: Authority) -> None:
    async with provider(ours) as (server, core):
        heads: list[dict[str, str]] = []

        async def note(request: web.Request) -> web.StreamResponse:
            heads.append(dict(request.headers))
            return web.Response(text='data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')

        await started(core)
        server.instead = note
        await ask(core)
        address = server.base_url.removeprefix("https://").removesuffix("/v1")
        assert {name: value for name, value in heads[0].items() if name != "Content-Length"} == {
            "Host": address,
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": "aios",
            "Authorization": f"Bearer {VALUE}",
        }


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 60000. This model supports at most 16384 completion tokens, whereas you provided 60000.",
        "`max_completion_tokens` must be less than or equal to `16384`, the maximum value for this model",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 16384]",
    ],
)
async def test_a_model_that_can_answer_with_fewer_tokens_is_asked_for_fewer(words: str, ours: Authority) -> None:
    async with provider(ours) as (server, core):
        await started(core)

        async def picky(request: web.Request) -> web.StreamResponse:
            if server.bodies[-1]["max_tokens"] > 16384:
                return web.json_response({"error": {"message": words, "param": "max_tokens"}}, status=400)
            return web.Response(
                text='data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
            )

        server.instead = picky
        for _ in range(2):
            assert (await ask(core, max_tokens=60_000)).text == "x"
        assert [body["max_tokens"] for body in server.bodies] == [60_000, 16_384, 16_384]
        assert (await ask(core, max_tokens=5)).text == "x"
        server.instead = answers(400, '{"error": {"message": "max_tokens must be at most 99999999"}}')
        with pytest.raises(Invalid):
            await ask(core, max_tokens=60_000)
        assert server.bodies[-1]["max_tokens"] == 16_384 and len(server.bodies) == 5


async def test_a_server_elsewhere_that_is_gone_costs_its_caller_nothing(ours: Authority) -> None:
    async with provider(ours) as (server, core):
        await started(core)
        connections = core._connections
        assert connections is not None
        connections._port = 9
        for idle in connections._idle:
            idle.close()
        with pytest.raises(Unavailable, match="does not answer"):
            await ask(core)
        assert not core.health().up
        await asyncio.sleep(0)
    assert server.bodies == []


async def test_one_that_is_out_of_reach_at_the_start_is_used_once_it_answers(ours: Authority) -> None:
    async with provider(ours, models=("scripted-1",)) as (server, core):
        events: asyncio.Queue[CoreEvent] = asyncio.Queue()
        assert core._tls is not None
        tls, core._tls = core._tls, trusting(None)  # nobody it trusts vouches for the server
        await core.start(events.put_nowait)
        assert not core.health().up and "not trusted" in core.health().detail and core.info().models == ("scripted-1",)
        assert (await events.get()).change == "down" and server.heard == []
        with pytest.raises(Unavailable, match="not trusted"):
            await ask(core)
        assert core._connections is not None
        core._connections._tls = tls
        assert (await events.get()).change == "up"
        assert (await ask(core)).text


def test_a_provider_needs_no_more_than_its_name() -> None:
    assert len({each.name for each in PROVIDERS}) == len({each.variable for each in PROVIDERS}) == len(PROVIDERS)
    for each in PROVIDERS:
        core = completed(OpenAIChatConfig(provider=each.name))
        assert (core.name, core.base_url, core.key_env, core.needs_limit) == (each.name, each.base_url, each.variable, True)
        assert OpenAIChat(core, KEY).info().provider == each.name
    own = completed(OpenAIChatConfig(name="gateway", base_url="https://gateway.example.com/v1", provider="openai"))
    assert own.key_env == "", "a provider's key does not go to another address"
    for wrong in (OpenAIChatConfig(name="x"), OpenAIChatConfig(base_url="https://example.com/v1")):
        with pytest.raises(Invalid, match="needs"):
            completed(wrong)


@pytest.mark.parametrize("name", ["sk-123", "gsk_abc123", "", " ", "A=B", "A" * 200])
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_told(name: str) -> None:
    if not name:
        return
    with pytest.raises(ValueError, match="and not a key") as refused:
        OpenAIChatConfig(name="x", base_url="https://x/v1", key_env=name)
    assert name.strip() == "" or name not in str(refused.value)
