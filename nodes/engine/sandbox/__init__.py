"""Processes untrusted input in separate processes, so that a crash does not end the node.

`process.py` is the node's side. It starts `worker.py`, which has one duty: reading texts, or
checking grammars. Memory and CPU time of each answer are limited, and the process keeps only the
right to compute and to answer (`jail.py`, `call_filter.py`, `landlock.py`). Duties whose memory
must be measured fork for each question.
"""
