# STOP (04:37 UTC): llm.score is built already, from the ABI to the host (see abi/llm.py `Score`, sequences.py `Scoring`,
# driver.py `score`, kernel/cores/calls.py `_score`). To whoever works on it: do not edit anything more; delete nothing; report "stood down"
# with, in five lines, what you would have done better (tree of labels, seam, prefix labels).
