"""The model as a processor: generate, score, embed, count, models."""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

from aios.abi.account import LimitState
from aios.abi.bounds import recordable, within
from aios.abi.extra import MAX_EXTRA_BYTES, Fields, Wire, size_of
from aios.abi.request import Event, Reply, Request

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
EmbedKind = Literal["query", "passage"]
MAX_STOPS = 16
_SAMPLING = (None, None, None, 1, None, None)
"""Temperature, top_p, seed, n and the penalties of a call that leaves them as they are."""
MAX_PATH_CHARACTERS = 200
MAX_LABELS = 64
MAX_LABEL_CHARACTERS = 1000
MAX_TEXTS = 2048
MAX_TEXT_CHARACTERS = 32_768
MAX_TEXTS_CHARACTERS = 1 << 20
"""Of all texts of one call."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One piece of a message's content: text, or an image by address (`https:` or `data:`).

    `other`: content that the contract has no word for (a sound, a file), which is in `extra` as its wire has it.
    """

    type: Literal["text", "image", "other"]
    text: str = ""
    image: str = ""
    extra: Fields | None = None


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model wants called. `arguments`: JSON text as the model wrote it, perhaps not valid."""

    id: str
    name: str
    arguments: str
    extra: Fields | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra: Fields | None = None


class ToolSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A function that the model may ask for. `parameters`: a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool | None = None
    extra: Fields | None = None


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Tokens, as disjoint integers: their sum is what was processed.

    `cache_write`: input that went into the provider's cache. `estimated`: the server did not tell, so it is a guess. `billed`:
    nano-dollars, where the provider itself says what it bills for the call.
    """

    input_uncached: int = 0
    cache_read: int = 0
    output_visible: int = 0
    reasoning: int = 0
    cache_write: int = 0
    estimated: bool = False
    billed: int = 0

    @property
    def input_tokens(self) -> int:
        return self.input_uncached + self.cache_read + self.cache_write

    @property
    def output_tokens(self) -> int:
        return self.output_visible + self.reasoning


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token's text and natural logarithm of its probability; `top`: the likeliest at this place.

    `bytes`: of a token that is no whole text by itself.
    """

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    bytes: tuple[int, ...] = ()


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer. `finish`: why it ended. `stopped_by`: the text of `stop` that ended it, where there was one and it is known.

    `extra`: what its core's wire says besides, of the `message` and of the `choice`.
    """

    text: str = ""
    finish: Finish = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped_by: str = ""
    extra: dict[str, Fields] | None = None


class Completion(Reply, frozen=True, omit_defaults=True):
    """What a model answered. `model`: the model that did it, `core`: where; `id` is unique for ever.

    `extra`: what its core's wire says besides.
    """

    id: str
    model: str
    core: str
    choices: tuple[Choice, ...]
    usage: Usage
    extra: Fields | None = None

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.choices[0].text if self.choices else ""


class Queued(Event, frozen=True, tag="queued", omit_defaults=True):
    """The call was accepted and now waits for a turn; a call that finds a free slot says nothing of the kind.

    `quota`: of its process's limits of calls and of tokens those that leave least, one each, where there are any.
    """

    call: str
    quota: tuple[LimitState, ...] = ()


class Started(Event, frozen=True, tag="started", omit_defaults=True):
    """The call has its turn: on which core, and after how many seconds of waiting. `id`: of the completion to come.

    `driver`: the core's kind; one that is named as a wire puts back the `extra` of that wire, all others leave it out.
    `quota`: as `Queued` has it, with what is reserved for this call.
    """

    call: str
    id: str
    model: str
    core: str
    wait_s: float
    driver: str = ""
    quota: tuple[LimitState, ...] = ()


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A piece of a tool call; `id` and `name` come with the first piece of each `index`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Fields | None = None


class Delta(Event, frozen=True, tag="delta", omit_defaults=True):
    """A piece of answer `index`. `tokens`: how many tokens it stands for, 0 if unknown.

    `extra`: what its core's wire says in it besides, of the `message`, of the `choice`, and of the `answer` as a whole.
    """

    index: int = 0
    text: str = ""
    tokens: int = 0
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    extra: dict[str, Fields] | None = None


class Generate(Request[Completion], frozen=True, kw_only=True):
    """Ask a model: a conversation (`messages`) or a text to go on with (`prompt`), exactly one of the two.

    `model`: a model's name or an alias; `default` is the kernel's choice. `max_tokens`: at most so many new tokens;
    None: as many as the window has room for. `temperature` 0 is greedy. `stop`: texts that end the answer and are not
    part of it. `seed`: the same seed gives the same random numbers. What no core can do is refused with `NoCore`.

    `response_format`: what the answer must be, an object by its `type`: `text`; `json_object`; `json_schema` with
    `json_schema`: {`name`, `schema`}; `choice` with `choices`, a list of texts of which it is one; `regex` with `pattern`, which
    the whole answer fits. `tools`: functions that the model may ask for; `tool_choice`: `auto`, `none`, `required`, or
    {`type`: `function`, `function`: {`name`}}. A valid answer is not a right one: that depends on the model. `logprobs`: tell how
    likely each token was, by the model at temperature 1 before a form or a setting ruled any out, and `top_logprobs` others.

    `extra`: further fields in the words of `wire`, here and at messages, parts, calls and tools: a core that speaks this wire
    gets them, all others leave them out. `essential`: the path of one that must not be left out: only such a core will do then.
    """

    model: str = "default"
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    wire: Wire | None = None
    extra: Fields | None = None
    essential: str = ""

    def __post_init__(self) -> None:
        if bool(self.messages) == (self.prompt is not None):
            raise ValueError("`messages` or `prompt` must be given, and not both")
        # What a call leaves as it is, as most leave most of it, is not looked at: every call of every agent comes by here.
        if self.max_tokens is not None:
            within("max_tokens", self.max_tokens, 1, 1_000_000)
        sampling = (self.temperature, self.top_p, self.seed, self.n, self.presence_penalty, self.frequency_penalty)
        if sampling != _SAMPLING or self.top_logprobs is not None:
            self._check_sampling()
        if self.stop:
            self._check_stop()
        if self.tools or self.tool_choice or self.response_format:
            recordable("tools", self.tools)
            recordable("tool_choice", self.tool_choice)
            recordable("response_format", self.response_format)
        if self.wire is not None or self.extra is not None or self.essential:
            self._check_extra()

    def _check_sampling(self) -> None:
        within("temperature", self.temperature, 0, 2)
        within("top_p", self.top_p, 0, 1)
        within("seed", self.seed, -(2**63), 2**64 - 1)
        within("n", self.n, 1, 128)
        within("presence_penalty", self.presence_penalty, -2, 2)
        within("frequency_penalty", self.frequency_penalty, -2, 2)
        within("top_logprobs", self.top_logprobs, 0, 20)

    def _check_stop(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise ValueError(f"`stop` must hold at most {MAX_STOPS} texts")
        if not all(self.stop):
            raise ValueError("`stop` must hold texts that are not empty")

    def _check_extra(self) -> None:
        if self.wire is None:
            raise ValueError("`wire` must say in whose words `extra` and `essential` are")
        if len(self.essential) > MAX_PATH_CHARACTERS:
            raise ValueError(f"`essential` must have at most {MAX_PATH_CHARACTERS} characters")
        extras = [message.extra for message in self.messages] + [tool.extra for tool in self.tools]
        extras += [call.extra for message in self.messages for call in message.tool_calls]
        contents = [message.content for message in self.messages if type(message.content) is tuple]
        recordable("extra", [self.extra, extras, [part.extra for content in contents for part in content]])
        if size_of([self.extra, *extras]) > MAX_EXTRA_BYTES:
            raise ValueError(f"`extra` must have at most {MAX_EXTRA_BYTES} bytes in all")


class LabelScore(msgspec.Struct, frozen=True):
    """How likely a model holds one continuation.

    `logprob`: the natural logarithm of its likelihood, the sum over its `tokens`; `baseline`: the same behind the baseline.
    `probability`: its share among all labels of the call, by `logprob` less `baseline`.
    """

    label: str
    logprob: float
    tokens: int
    probability: float
    baseline: float = 0.0


class Scores(Reply, frozen=True):
    """The labels in the order of the request. `model`: the model that did it, `core`: where; `id` is unique for ever."""

    id: str
    model: str
    core: str
    labels: tuple[LabelScore, ...]
    usage: Usage

    @property
    def best(self) -> LabelScore:
        """The likeliest label; of equals the first."""
        return max(self.labels, key=lambda score: score.probability)


class Score(Request[Scores], frozen=True, kw_only=True):
    """How likely are these continuations of a conversation (`messages`) or a text (`prompt`)? Nothing is generated.

    A label's tokens follow the prompt's as they are: a word that follows a word begins with its space. No end is counted: a label
    that another one begins with is never less likely than that. `baseline`: a text without content in the place of `prompt`: how
    likely the labels are there is taken off, so that a model's general taste for a word does not decide (Zhao et al. 2021).
    """

    model: str = "default"
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    labels: tuple[str, ...]
    baseline: str | None = None

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.prompt):
            raise ValueError("`messages` or `prompt` must be given, and not both")
        if self.baseline is not None and not (self.baseline and self.prompt):
            raise ValueError("`baseline` must be a text that is not empty, in the place of `prompt`")
        if not 2 <= len(self.labels) <= MAX_LABELS:
            raise ValueError(f"`labels` must hold 2 to {MAX_LABELS} texts")
        if not all(self.labels) or len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` must hold texts that are not empty, each once")
        if max(map(len, self.labels)) > MAX_LABEL_CHARACTERS:
            raise ValueError(f"`labels` must hold texts of at most {MAX_LABEL_CHARACTERS} characters")


class Embeddings(Reply, frozen=True):
    """A vector for each text, in the order of the request: `dimensions` float32 numbers, the lowest byte first, of length one.

    `cut`: how many texts are longer than the model reads; of those the beginning counts. `model`: the model that did it, `core`:
    where; `id` is unique for ever.
    """

    id: str
    model: str
    core: str
    dimensions: int
    vectors: tuple[bytes, ...]
    cut: int
    usage: Usage

    def floats(self) -> tuple[tuple[float, ...], ...]:
        """The vectors as numbers."""
        return tuple([struct.unpack(f"<{self.dimensions}f", vector) for vector in self.vectors])


class Embed(Request[Embeddings], frozen=True, kw_only=True):
    """Turn texts into vectors: the nearer two texts in meaning, the greater the dot product of their vectors, at most 1.

    `model`: a model that embeds, or an alias; `default` is the kernel's first. `texts`: 1 to 2,048, each of 1 to 32,768
    characters, 1,048,576 together. `kind`: what they are for: to be found (`passage`) or to find with (`query`); some models make
    a difference. `dimensions`: how many the vectors must have; a model has its own, and refuses others.
    """

    model: str = "default"
    texts: tuple[str, ...]
    kind: EmbedKind = "passage"
    dimensions: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= MAX_TEXTS:
            raise ValueError(f"`texts` must hold 1 to {MAX_TEXTS} texts")
        for at, text in enumerate(self.texts):
            if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
                raise ValueError(f"`texts` must hold texts of 1 to {MAX_TEXT_CHARACTERS} characters: [{at}] has {len(text)}")
        if sum(map(len, self.texts)) > MAX_TEXTS_CHARACTERS:
            raise ValueError(f"`texts` must have at most {MAX_TEXTS_CHARACTERS} characters together: send them in several calls")


class Tokens(Reply, frozen=True):
    """A number of tokens, and whether the model's own tokenizer counted them."""

    tokens: int
    exact: bool


class Count(Request[Tokens], frozen=True, kw_only=True):
    """How many tokens a text or a conversation is for a model. `tools`: functions that the model would be told of with it."""

    model: str = "default"
    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[ToolSpec, ...] = ()

    def __post_init__(self) -> None:
        recordable("tools", self.tools)


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model that may be used. `window`: tokens of question and answer together. `features`: what it can do.

    `exact`: all its cores are.
    """

    name: str
    cores: tuple[str, ...]
    window: int
    features: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    exact: bool = False


class ModelList(Reply, frozen=True):
    """The models that this process may use."""

    models: tuple[Model, ...]


class Models(Request[ModelList], frozen=True, kw_only=True):
    """What this process may use."""
