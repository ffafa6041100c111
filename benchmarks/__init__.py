"""One file per question: `python -m benchmarks.NAME [--quick] [--json FILE]`; `python -m benchmarks` asks them all.

Each compares with its baseline in the same run, because machines differ by a factor and hours by tens of percent. `rig`
holds what they share.
"""
