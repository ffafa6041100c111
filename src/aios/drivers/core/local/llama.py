"""llama.cpp through ctypes: the C symbols of the shared library in the `xllamacpp` wheel, without importing that package.

The library's structs change with nearly every release, and a wrong layout does not fail, it misreads. So each layout is data
under the exact version it was checked with, any other version is refused, and a self-test holds what the library fills in, the
defaults and the extent, against what is written down here before anything is built on it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "xllamacpp"
Q8_0 = 8
"""The key-value cache's type with which generation does not depend on what else is in the batch."""

# "-": a pointer. `None` as a default: a null pointer.
TYPES: Mapping[str, Any] = {"i32": c_int32, "u32": c_uint32, "f32": c_float, "bool": c_bool, "size": c_size_t, "-": c_void_p}
Field = tuple[str, str, int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of the two structs that are passed by value: name, type, and the library's default."""

    model: tuple[Field, ...]
    context: tuple[Field, ...]


ABI: Mapping[str, Layout] = {
    "2026.10.11549": Layout(
        model=(
            ("devices", "-", None),
            ("tensor_buft_overrides", "-", None),
            ("n_gpu_layers", "i32", -1),
            ("split_mode", "i32", 1),
            ("load_mode", "i32", -1),
            ("lazy_mode", "i32", 1),
            ("main_gpu", "i32", 0),
            ("tensor_split", "-", None),
            ("progress_callback", "-", None),
            ("progress_user_data", "-", None),
            ("kv_overrides", "-", None),
            ("vocab_only", "bool", False),
            ("check_tensors", "bool", False),
            ("use_extra_bufts", "bool", True),
            ("no_host", "bool", False),
            ("no_alloc", "bool", False),
            ("load_mtp", "bool", False),
        ),
        context=(
            ("n_ctx", "u32", 512),
            ("n_batch", "u32", 2048),
            ("n_ubatch", "u32", 512),
            ("n_seq_max", "u32", 1),
            ("n_rs_seq", "u32", 0),
            ("n_outputs_max", "u32", 0),
            ("n_outputs_max_per_seq", "u32", 1),
            ("n_threads", "i32", 4),
            ("n_threads_batch", "i32", 4),
            ("ctx_type", "i32", 0),
            ("rope_scaling_type", "i32", -1),
            ("pooling_type", "i32", -1),
            ("attention_type", "i32", -1),
            ("flash_attn_type", "i32", -1),
            ("rope_freq_base", "f32", 0.0),
            ("rope_freq_scale", "f32", 0.0),
            ("yarn_ext_factor", "f32", -1.0),
            ("yarn_attn_factor", "f32", -1.0),
            ("yarn_beta_fast", "f32", -1.0),
            ("yarn_beta_slow", "f32", -1.0),
            ("yarn_orig_ctx", "u32", 0),
            ("defrag_thold", "f32", -1.0),
            ("cb_eval", "-", None),
            ("cb_eval_user_data", "-", None),
            ("type_k", "i32", 1),
            ("type_v", "i32", 1),
            ("moe_cache_size", "size", 0),
            ("abort_callback", "-", None),
            ("abort_callback_data", "-", None),
            ("embeddings", "bool", False),
            ("offload_kqv", "bool", True),
            ("no_perf", "bool", True),
            ("op_offload", "bool", True),
            ("swa_full", "bool", True),
            ("kv_unified", "bool", False),
            ("samplers", "-", None),
            ("n_samplers", "size", 0),
            ("ctx_other", "-", None),
        ),
    ),
}


class EngineUnavailable(Exception):
    """The engine cannot run here; the message is one sentence that says what to do."""


class Batch(ctypes.Structure):
    """`llama_batch`: tokens of several sequences, each with its position and whether its logits are wanted."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


class ChatMessage(ctypes.Structure):
    """`llama_chat_message`."""

    _fields_ = (("role", c_char_p), ("content", c_char_p))


CANARY_BYTES = 256
RETURNS_THROUGH_FIRST_ARGUMENT = platform.machine() == "x86_64" and sys.platform in ("linux", "darwin")
"""Whether a big struct is returned through an address that comes as the first argument, so that we can pass one ourselves. On
ARM it comes in a register that ctypes does not reach: there the comparison of defaults and the golden logits stand alone."""

AbortCallback = ctypes.CFUNCTYPE(c_bool, c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
LOG_WARN, LOG_ERROR, LOG_CONTINUES = 3, 4, 5


def installed_version() -> str:
    """The version of the installed engine. Raises `EngineUnavailable` if there is none or its layout is unknown."""
    known = " or ".join(f"`{PACKAGE}=={version}`" for version in ABI)
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise EngineUnavailable(f"the engine is not installed: install {known} with `--no-deps`") from None
    if version not in ABI:
        raise EngineUnavailable(f"`{PACKAGE}` {version} is not one that AIOS knows the structs of: install {known}")
    return version


def library_path() -> Path:
    """The engine's shared library. Raises `EngineUnavailable` if the package holds none."""
    for file in importlib.metadata.files(PACKAGE) or ():
        if file.name.startswith(PACKAGE) and file.suffix in (".so", ".dylib"):
            return Path(str(file.locate()))
    raise EngineUnavailable(f"`{PACKAGE}` is damaged, it has no shared library: install it again")


def structure(name: str, fields: Sequence[Field]) -> type[ctypes.Structure]:
    """The ctypes struct of a layout."""
    return type(name, (ctypes.Structure,), {"_fields_": tuple((field, TYPES[kind]) for field, kind, _ in fields)})


class Llama:
    """The library's functions, by their names without `llama_`. Nothing here knows what they are used for.

    `layout` and `path` are for tests; without them they are the installed ones. Raises `EngineUnavailable`.
    """

    def __init__(self, layout: Layout | None = None, path: Path | None = None) -> None:
        self.version = installed_version() if layout is None else "given"
        self.layout = layout or ABI[self.version]
        self._library = _open(path or library_path())
        self._model_params = structure("ModelParams", self.layout.model)
        self._context_params = structure("ContextParams", self.layout.context)
        self._declare()
        self.complaints: deque[str] = deque(maxlen=8)
        self._log_level = 0
        self._log = LogCallback(self._take_log)  # kept: the library holds only the address
        self.log_set(self._log, None)
        self.self_test()
        self.backend_init()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, "llama_" + name)

    def self_test(self) -> None:
        """Hold both structs against the layout: each default, and the extent. Raises `EngineUnavailable` on a difference."""
        for name, struct, fields in (
            ("model_default_params", self._model_params, self.layout.model),
            ("context_default_params", self._context_params, self.layout.context),
        ):
            params = self._defaults(name, struct)
            for field, _, default in fields:
                found = getattr(params, field)
                if found != default:
                    raise _misread(f"`{field}` is {found}, not {default}")
            if RETURNS_THROUGH_FIRST_ARGUMENT:
                self._check_extent(name, struct)

    def model_defaults(self) -> Any:
        """The library's parameters for loading a model."""
        return self._defaults("model_default_params", self._model_params)

    def context_defaults(self) -> Any:
        """The library's parameters for a context."""
        return self._defaults("context_default_params", self._context_params)

    def _defaults(self, name: str, struct: type[ctypes.Structure]) -> ctypes.Structure:
        """What a function returns by value, into a buffer with room behind it: a bigger struct than ours harms nothing."""
        room = type("Room", (ctypes.Structure,), {"_fields_": (("params", struct), ("canary", c_uint8 * CANARY_BYTES))})
        returned = ctypes.CFUNCTYPE(room)((f"llama_{name}", self._library))
        return struct.from_buffer_copy(returned())

    def _check_extent(self, name: str, struct: type[ctypes.Structure]) -> None:
        """See which bytes the library really writes: every field's, and none between them or behind.

        A field that is missing or too much where its neighbours have the same default changes nothing that one could compare.
        """
        size = ctypes.sizeof(struct)
        function = ctypes.CFUNCTYPE(c_void_p, c_void_p)((f"llama_{name}", self._library))
        buffers = []
        for filling in (0x5A, 0xA5):
            buffer = (c_uint8 * (size + CANARY_BYTES))(*[filling] * (size + CANARY_BYTES))
            function(ctypes.addressof(buffer))
            buffers.append(bytes(buffer))
        written = {at for at, (one, other) in enumerate(zip(*buffers, strict=True)) if one == other}
        if max(written, default=0) >= size:
            raise _misread(f"`{name}` writes behind the {size} bytes of its struct")
        for field, *_ in struct._fields_:
            place = getattr(struct, field)
            own = set(range(place.offset, place.offset + place.size))
            if not own <= written:
                raise _misread(f"`{name}` does not write `{field}`")
            written -= own
        if written and platform.libc_ver()[0] == "glibc":  # a compiler may write padding; the one of this wheel does not
            raise _misread(f"`{name}` writes a field at {min(written)} that is not written down")

    def machine(self) -> str:
        """What the results of this library depend on here: its kernels, the processor's kind, the C library's mathematics."""
        info = self.print_system_info().decode(errors="replace").strip(" |\n")
        return f"{info} | {platform.machine()} {' '.join(platform.libc_ver())}".strip()

    def complaint(self) -> str:
        """The last warnings and errors that the library printed, as one line."""
        return "; ".join(line.strip() for line in self.complaints if line.strip())[-600:]

    def _take_log(self, level: int, text: bytes, _data: object) -> None:
        if level != LOG_CONTINUES:
            self._log_level = level
        if self._log_level in (LOG_WARN, LOG_ERROR):
            self.complaints.append(text.decode(errors="replace")[:300])

    def _declare(self) -> None:
        model, context, vocab, memory = c_void_p, c_void_p, c_void_p, c_void_p
        declare: Callable[..., None] = self._declare_one
        declare("log_set", None, LogCallback, c_void_p)
        declare("backend_init", None)
        declare("print_system_info", c_char_p)
        declare("model_load_from_file", model, c_char_p, self._model_params)
        declare("model_free", None, model)
        declare("init_from_model", context, model, self._context_params)
        declare("free", None, context)
        declare("n_ctx_seq", c_uint32, context)
        declare("get_memory", memory, context)
        declare("memory_seq_rm", c_bool, memory, c_int32, c_int32, c_int32)
        declare("memory_seq_cp", None, memory, c_int32, c_int32, c_int32, c_int32)
        declare("state_seq_get_size", c_size_t, context, c_int32)
        declare("state_seq_get_data", c_size_t, context, c_void_p, c_size_t, c_int32)
        declare("state_seq_set_data", c_size_t, context, c_void_p, c_size_t, c_int32)
        declare("model_get_vocab", vocab, model)
        declare("model_has_encoder", c_bool, model)
        declare("model_has_decoder", c_bool, model)
        declare("model_n_layer", c_int32, model)
        declare("model_n_embd", c_int32, model)
        declare("model_n_head", c_int32, model)
        declare("model_n_head_kv", c_int32, model)
        declare("model_n_ctx_train", c_int32, model)
        declare("model_size", c_uint64, model)
        declare("model_chat_template", c_char_p, model, c_char_p)
        declare("chat_apply_template", c_int32, c_char_p, POINTER(ChatMessage), c_size_t, c_bool, c_char_p, c_int32)
        declare("vocab_n_tokens", c_int32, vocab)
        declare("vocab_type", c_int, vocab)
        declare("vocab_is_eog", c_bool, vocab, c_int32)
        declare("tokenize", c_int32, vocab, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool)
        declare("token_to_piece", c_int32, vocab, c_int32, c_char_p, c_int32, c_int32, c_bool)
        declare("decode", c_int32, context, Batch)
        declare("set_abort_callback", None, context, AbortCallback, c_void_p)
        declare("get_logits_ith", c_void_p, context, c_int32)

    def _declare_one(self, name: str, result: Any, *arguments: Any) -> None:
        try:
            function = getattr(self._library, "llama_" + name)
        except AttributeError:
            raise EngineUnavailable(f"the engine has no `llama_{name}`: install it again") from None
        function.restype, function.argtypes = result, arguments


def _misread(what: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"the engine's structs are not the ones written down for it ({what}): "
        f"install `{PACKAGE}` again with the version and hash of AIOS's lock file"
    )


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as problem:
        if "libgomp" in str(problem):
            raise EngineUnavailable("the engine needs libgomp: `apt-get install libgomp1` or the like") from None
        raise EngineUnavailable(f"the engine's library does not load ({problem}): install `{PACKAGE}` again") from None
