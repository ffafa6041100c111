"""Whether a file is a model that the engine can use, found in a child: `python -m aios.drivers.core.local.examine FILE`.

The file is a stranger's and the engine is native code, so the trying happens where a crash, a loop or a flood of memory ends
nothing else. The engine itself is asked: it builds the model without its weights, so that also a big file takes no longer than
its vocabulary does.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import msgspec

from aios.drivers.core.local.gguf import Flaw, Flawed, read_header
from aios.drivers.core.local.host import PASSED_ON, SET
from aios.drivers.core.local.llama import EngineUnavailable, Llama

LIMIT_S = 60
CPU_S = 60
MEMORY_BYTES = 4 << 30
OUT_OF_BOUNDS, UNKNOWN = "not within the file bounds", "unknown model architecture"
"""What the engine says of such files."""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found. `flaw`: None if it can be used; else `said` ends a sentence that begins with the file's name."""

    architecture: str = ""
    flaw: Flaw | None = None
    said: str = ""


_verdicts = msgspec.json.Decoder(Verdict)


def examine(path: Path) -> Verdict:
    """Try a file in a child. Raises `OSError` if no child can be started."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "aios.drivers.core.local.examine", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=LIMIT_S,
            env={**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, **SET},
        )
        return _verdicts.decode(done.stdout)
    except subprocess.TimeoutExpired:
        return Verdict(flaw="damaged", said=f"was not read within {LIMIT_S} s: get the file again, or name another")
    except msgspec.DecodeError:
        return Verdict(flaw="damaged", said="is damaged, the engine fails when it reads it: get the file again, or name another")


def tried(path: Path) -> Verdict:
    """What the file says and what the engine makes of it, in this process."""
    architecture = ""
    try:
        header = read_header(path)
        architecture = header.architecture
        if header.parts > 1:
            raise Flawed("unfit", f"is one of {header.parts} parts of a model: join them, or name a model in one file")
        if not header.causal:
            raise Flawed("unfit", f"is a model for embeddings (`{architecture}`), not one that goes on with a text: name another")
        _load(path, architecture)
    except Flawed as flawed:
        return Verdict(architecture, flawed.flaw, flawed.said)
    except EngineUnavailable as problem:
        return Verdict(architecture, "engine", f"cannot be tried: {problem}")
    return Verdict(architecture)


def _load(path: Path, architecture: str) -> None:
    """Let the engine build the model without its weights. Raises `Flawed`, `EngineUnavailable`."""
    llama = Llama()
    params = llama.model_defaults()
    params.n_gpu_layers, params.load_mode, params.no_alloc = 0, 0, True  # only without a map can it be without weights
    model = llama.model_load_from_file(os.fsencode(path), params)
    if not model:
        raise _flaw_of(llama.complaint(), architecture)
    if llama.model_has_encoder(model) or not llama.model_has_decoder(model):
        raise Flawed("unfit", f"is a model with an encoder (`{architecture}`), not one that goes on with a text: name another")
    vocabulary = llama.model_get_vocab(model)
    if llama.vocab_n_tokens(vocabulary) <= 0 or not llama.vocab_type(vocabulary):
        raise Flawed("unfit", "holds no vocabulary: name another")


def _flaw_of(complaint: str, architecture: str) -> Flawed:
    """The flaw behind the engine's words."""
    if OUT_OF_BOUNDS in complaint:
        return Flawed("truncated", "is truncated, the end of its tensors is missing: get the file again")
    if UNKNOWN in complaint:
        return Flawed("unknown", f"is of an architecture that the engine does not know (`{architecture}`): name another")
    return Flawed("damaged", f"does not load ({complaint}): get the file again, or name another")


def main() -> int:
    """Say the verdict on standard output; its exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.buffer.write(msgspec.json.encode(tried(Path(sys.argv[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
