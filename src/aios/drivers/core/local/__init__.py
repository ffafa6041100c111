"""The local core: llama.cpp in a supervised child.

`driver` is the kernel's side (it imports neither numpy nor the engine), `protocol` what the two say to each other, `child`
the process, `engine` its loop over sequences, `llama` the binding, `models` the model files.
"""
