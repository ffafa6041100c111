"""Small GGUF files made by hand: a model of one layer that the engine takes, and everything that may be wrong with one."""

import struct
from pathlib import Path

Value = int | float | bool | str | list[str] | list[float] | list[int]

TEXT, ARRAY, F32, U32, I32 = 8, 9, 6, 4, 5
WIDTH, INNER, ALIGN = 32, 64, 32
VOCABULARY = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b"]
KINDS = [2, 3, 3, *([6] * 256), 1, 1]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def typed(value: Value) -> bytes:
    """A value with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    kind = TEXT if isinstance(value[0], str) else F32 if isinstance(value[0], float) else I32
    items = [text(item) if isinstance(item, str) else struct.pack("<f" if kind == F32 else "<i", item) for item in value]
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(items)


def keys(architecture: str = "llama", **more: Value) -> dict[str, Value]:
    """What such a model says of itself."""
    return {
        "general.architecture": architecture,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": WIDTH,
        f"{architecture}.block_count": 1,
        f"{architecture}.feed_forward_length": INNER,
        f"{architecture}.attention.head_count": 2,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": VOCABULARY,
        "tokenizer.ggml.scores": [0.0] * len(VOCABULARY),
        "tokenizer.ggml.token_type": KINDS,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def tensors() -> dict[str, tuple[int, ...]]:
    """The tensors of such a model, by name, with their sizes."""
    square, wide = (WIDTH, WIDTH), (WIDTH, INNER)
    inner = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square, "attn_norm": (WIDTH,)}
    inner |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": (INNER, WIDTH), "ffn_norm": (WIDTH,)}
    outer = {"token_embd": (WIDTH, len(VOCABULARY)), "output_norm": (WIDTH,)}
    return {f"{name}.weight": size for name, size in outer.items()} | {
        f"blk.0.{name}.weight": size for name, size in inner.items()
    }


def gguf(said: dict[str, Value] | None = None, sizes: dict[str, tuple[int, ...]] | None = None) -> bytes:
    """The bytes of a file."""
    said, sizes = said or keys(), sizes or tensors()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(sizes), len(said))
    head += b"".join(text(key) + typed(value) for key, value in said.items())
    data = b""
    for name, size in sizes.items():
        head += text(name) + struct.pack(f"<I{len(size)}QIQ", len(size), *size, 0, len(data))
        count = 1
        for dimension in size:
            count *= dimension
        data += struct.pack("<f", 0.01) * count
        data += bytes(-len(data) % ALIGN)
    return head + bytes(-len(head) % ALIGN) + data


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
