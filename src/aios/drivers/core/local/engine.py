"""The model itself: its weights and key-value cache in memory, its tokens, its chat template, and one pass over a batch.

The profile is the one in which a generation does not depend on what runs beside it: a cache of 8 bits that is split by
sequence, attention as the engine chooses. Others are faster and break on batching or on going on after a crash.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aios.drivers.core.local.llama import Q8_0, AbortCallback, Batch, ChatMessage, EngineUnavailable, Llama
from aios.drivers.core.local.protocol import Prompt, Turn

Q8_0_BYTES = 34 / 32
"""Of a number in the cache: 32 of one byte each share two bytes of scale."""

RESERVE_BYTES = 200 << 20
"""For the weights' working copy and the compute buffers."""

PIECE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Profile:
    """How the cache is kept: its type, whether all sequences share one (`unified`), and `flash` attention (-1: automatic)."""

    kv_type: int = Q8_0
    unified: bool = False
    flash: int = -1


EXACT = Profile()


BROKEN_OFF = 2
"""What the engine says of a pass that it was told to break off."""
ASKED_EVERY = 64
"""Of the steps of which a pass is made: about a millisecond."""


class BrokenOff(Exception):
    """A pass was not brought to its end, and nothing of it counts."""


class EngineFault(Exception):
    """The engine failed in the middle of its work: the process must be replaced."""


@dataclass(slots=True)
class Feed:
    """Tokens of one sequence in a pass: `tokens` come at `position` in sequence `slot`; `wants`: the logits after the last."""

    slot: int
    position: int
    tokens: list[int]
    wants: bool


class Engine:
    """A loaded model with `slots` sequences of `window` tokens, at most `batch` tokens in one pass.

    `profile` is for tests and measurements. Raises `EngineUnavailable` if it cannot be loaded.
    """

    def __init__(
        self, llama: Llama, path: Path, *, slots: int, window: int, threads: int, batch: int, profile: Profile = EXACT
    ) -> None:
        self._llama = llama
        self._model = self._load(path)
        self._vocab = llama.model_get_vocab(self._model)
        self._size = llama.vocab_n_tokens(self._vocab)
        self._check_kind(path)
        self._check_memory(slots, window)
        self._context = self._open(slots, window, threads, batch, profile)
        self._memory = llama.get_memory(self._context)
        if not self._memory:
            raise EngineUnavailable(f"`{path.name}` is no model that generates (it keeps no context): name another")
        self.window: int = min(window, llama.n_ctx_seq(self._context))
        self._pieces: dict[int, bytes] = {}
        self._arrays = _BatchArrays(batch)
        self._steps = 0
        self._enough: Callable[[], bool] | None = None
        self._failure: Exception | None = None
        self._asks = AbortCallback(self._ask)  # kept: the library holds only the address
        llama.set_abort_callback(self._context, self._asks, None)
        self._template: bytes | None = llama.model_chat_template(self._model, None)
        self.chat = self._template is not None and self._render((Turn("user", "a"),)) is not None

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens. Only the template's own marks become special tokens: what a message says cannot forge a turn."""
        if not prompt.turns:
            return self._encode(prompt.text, special=False, start=True)
        marks = [f"\x02{index}\x03" for index in range(len(prompt.turns))]
        frame = self._render(tuple(Turn(turn.role, mark) for turn, mark in zip(prompt.turns, marks, strict=True)))
        if frame is None:
            raise EngineFault("the chat template does not take this conversation")
        tokens: list[int] = []
        between: dict[str, list[int]] = {}  # what stands between messages is nearly always the same
        at = 0
        for index, (turn, mark) in enumerate(zip(prompt.turns, marks, strict=True)):
            end = found if (found := frame.find(mark, at)) >= 0 else len(frame)
            text, at = frame[at:end], end + len(mark)
            if index == 0:
                tokens += self._encode(text, special=True, start=True)
            else:
                if text not in between:
                    between[text] = self._encode(text, special=True, start=False)
                tokens += between[text]
            tokens += self._encode(turn.content, special=False, start=False)
        return tokens + self._encode(frame[at:], special=True, start=False)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special one."""
        known = self._pieces.get(token)
        if known is None:
            buffer = ctypes.create_string_buffer(PIECE_BYTES)
            size = self._llama.token_to_piece(self._vocab, token, buffer, PIECE_BYTES, 0, False)
            known = self._pieces[token] = buffer.raw[: max(size, 0)]
        return known

    def ends(self, token: int) -> bool:
        """Whether the model says with this token that its answer is over."""
        return bool(self._llama.vocab_is_eog(self._vocab, token))

    def longest_piece(self) -> int:
        """Bytes of the longest token. Asks for each the first time, ~0.1 s."""
        return max(map(len, self.vocabulary()))

    def vocabulary(self) -> list[bytes]:
        """The bytes of every token. Asks for each the first time, ~0.1 s."""
        return [self.piece(token) for token in range(self._size)]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that stands within others."""
        return self._encode(text, special=False, start=False)

    def run(self, feeds: list[Feed], enough: Callable[[], bool] | None = None) -> list[NDArray[np.float32]]:
        """One pass; the logits of the feeds that want them, in their order, valid until the next pass.

        `enough` is asked each millisecond or so, and breaks it off with true or by raising. Raises `BrokenOff`, `EngineFault`.
        """
        last = self._arrays.fill(feeds)
        self._enough = enough
        code = self._llama.decode(self._context, self._arrays.batch)
        self._enough = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if code == BROKEN_OFF:
            for feed in feeds:
                self.trim(feed.slot, feed.position)
            raise BrokenOff
        if code:
            raise EngineFault(f"the engine ended a pass with {code}: {self._llama.complaint()}")
        return [self._row(at) for at, feed in zip(last, feeds, strict=True) if feed.wants]

    def _ask(self, _data: object) -> bool:
        """The engine asks before each step whether it is to break off."""
        self._steps += 1
        if self._enough is None or self._steps % ASKED_EVERY:
            return False
        try:
            return self._enough()
        except Exception as failure:  # noqa: BLE001  # it would be lost in the library: `run` raises it
            self._failure = failure
            return True

    def forget(self, slot: int) -> None:
        """Empty a sequence."""
        self._llama.memory_seq_rm(self._memory, slot, -1, -1)

    def trim(self, slot: int, tokens: int) -> None:
        """Keep the first so many tokens of a sequence."""
        self._llama.memory_seq_rm(self._memory, slot, tokens, -1)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let a sequence begin with the first so many tokens of another, instead of what it held.

        A split cache copies whole sequences only, and does it when the next pass begins: until then `target` can be trimmed,
        and neither be copied nor saved nor loaded.
        """
        self.forget(target)
        self._llama.memory_seq_cp(self._memory, source, target, -1, -1)
        self.trim(target, tokens)

    def save(self, slot: int) -> bytearray:
        """What the model keeps of a sequence, ~12 KB per token with the embedded model. Native data: only for `load`."""
        size = self._llama.state_seq_get_size(self._context, slot)
        data = bytearray(size)
        if self._llama.state_seq_get_data(self._context, _address(data), size, slot) != size:
            raise EngineFault("the engine does not give a sequence away")
        return data

    def load(self, slot: int, data: bytearray) -> None:
        """Let a sequence be what was saved, instead of what it held. Raises `EngineFault` if the engine does not take it."""
        self.forget(slot)
        if self._llama.state_seq_set_data(self._context, _address(data), len(data), slot) != len(data):
            raise EngineFault("the engine does not take a sequence back")

    def close(self) -> None:
        """Free the memory."""
        self._llama.free(self._context)
        self._llama.model_free(self._model)

    def _row(self, at: int) -> NDArray[np.float32]:
        address = self._llama.get_logits_ith(self._context, at)
        if not address:
            raise EngineFault("the engine has no logits where it should")
        return np.frombuffer((ctypes.c_float * self._size).from_address(address), np.float32)

    def _load(self, path: Path) -> int:
        params = self._llama.model_defaults()
        params.n_gpu_layers = 0
        model: int | None = self._llama.model_load_from_file(str(path).encode(), params)
        if not model:
            raise EngineUnavailable(f"`{path.name}` does not load ({self._llama.complaint()}): get it again, or name another")
        return model

    def _check_kind(self, path: Path) -> None:
        """Refuse what the engine can load, but not generate with as we do: it would end the process, or say nothing of use."""
        llama, model = self._llama, self._model
        if llama.model_has_encoder(model) or not llama.model_has_decoder(model):
            raise EngineUnavailable(f"`{path.name}` is a model with an encoder, not one that goes on with a text: name another")
        if self._size <= 0 or not llama.vocab_type(self._vocab):
            raise EngineUnavailable(f"`{path.name}` holds no vocabulary: name another")

    def _open(self, slots: int, window: int, threads: int, batch: int, profile: Profile) -> int:
        params = self._llama.context_defaults()
        params.n_ctx, params.n_seq_max = slots * window, slots
        params.n_batch = params.n_ubatch = batch
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = profile.kv_type
        params.kv_unified, params.flash_attn_type = profile.unified, profile.flash
        params.offload_kqv = params.op_offload = False
        context: int | None = self._llama.init_from_model(self._model, params)
        if not context:
            raise EngineUnavailable(f"the engine has no room for {slots} slots of {window} tokens: set fewer or smaller ones")
        return context

    def _check_memory(self, slots: int, window: int) -> None:
        llama, model = self._llama, self._model
        width = llama.model_n_embd(model) // llama.model_n_head(model) * llama.model_n_head_kv(model)
        needed = int(slots * window * llama.model_n_layer(model) * width * 2 * Q8_0_BYTES) + RESERVE_BYTES
        available = available_bytes()
        if available is not None and needed > available:
            wanted = f"{slots} slots of {window} tokens need {needed >> 20} MB"
            raise EngineUnavailable(f"{wanted} and {available >> 20} MB are free: set fewer or smaller slots")

    def _render(self, turns: tuple[Turn, ...]) -> str | None:
        messages = (ChatMessage * len(turns))(*(ChatMessage(turn.role.encode(), turn.content.encode()) for turn in turns))
        size = 64 * len(turns) + 1024
        while True:
            buffer = ctypes.create_string_buffer(size)
            needed = self._llama.chat_apply_template(self._template, messages, len(turns), True, buffer, size)
            if needed < 0:
                return None
            if needed <= size:
                return buffer.raw[:needed].decode()
            size = needed

    def _encode(self, text: str, *, special: bool, start: bool) -> list[int]:
        if not text and not start:
            return []
        data = text.encode()
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = self._llama.tokenize(self._vocab, data, len(data), buffer, room, start, special)
        if count < 0:
            raise EngineFault(f"the tokenizer wants room for {-count} tokens for {len(data)} bytes")
        return buffer[:count]


def _address(data: bytearray) -> int:
    """Where it lies, as long as it is neither resized nor forgotten."""
    return ctypes.addressof((ctypes.c_char * len(data)).from_buffer(data))


class _BatchArrays:
    """The memory that `llama_batch` points to, made once."""

    def __init__(self, size: int) -> None:
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._counts = np.ones(size, np.int32)
        self._slots = np.zeros(size, np.int32)
        self._slot_pointers = (self._slots.ctypes.data + self._slots.itemsize * np.arange(size)).astype(np.uint64)
        self._wants = np.zeros(size, np.int8)
        self.batch = Batch(
            token=self._tokens.ctypes.data,
            pos=self._positions.ctypes.data,
            n_seq_id=self._counts.ctypes.data,
            seq_id=self._slot_pointers.ctypes.data,
            logits=self._wants.ctypes.data,
        )

    def fill(self, feeds: list[Feed]) -> list[int]:
        """Write the feeds down; the index of each one's last token."""
        end, last = 0, []
        for feed in feeds:
            start, end = end, end + len(feed.tokens)
            self._tokens[start:end] = feed.tokens
            self._positions[start:end] = range(feed.position, feed.position + len(feed.tokens))
            self._slots[start:end] = feed.slot
            self._wants[start:end] = 0
            self._wants[end - 1] = feed.wants
            last.append(end - 1)
        self.batch.n_tokens = end
        return last


def available_bytes() -> int | None:
    """Memory that can be had, of the machine and of our control group; None where neither says."""
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) << 10)
    most, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if most.exists() and used.exists() and most.read_text().strip() != "max":
        limits.append(int(most.read_text()) - int(used.read_text()))
    return min(limits, default=None)
