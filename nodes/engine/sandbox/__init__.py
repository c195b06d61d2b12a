"""Work on what strangers send, in processes that may die of it instead of the node.

`process.py` is the node's side. It starts `worker.py`, which learns one duty (`duties.py`: reading
texts or checking grammars) and forks once for each question. What is forked has a limit on memory
and processor time, and may neither open a file nor a connection (`jail.py`).
"""
