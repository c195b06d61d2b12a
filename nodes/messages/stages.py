"""The messages between a target and the stages before its own, over links of their own, and those
by which a target finds its stages at the coordinator."""

from __future__ import annotations

from typing import Annotated, Final

from airdraft.mesh.messages import (
    MAX_MESSAGE_BYTES,
    Count,
    MaxLen,
    Name,
    Range,
    Reason,
    message,
    struct,
)
from airdraft.nodes.messages.fields import MAX_STREAMS_PER_MESSAGE
from airdraft.policies.latency import CostTable

# What rows leave of a message is enough for its pieces and commands.
MAX_ROWS_BYTES: Final = MAX_MESSAGE_BYTES - 65_536
# Between two passes each of 255 sequences is cut, copied, saved and restored at most once or twice.
_MOST_COMMANDS: Final = 1024

# The most stages before a target's own.
MOST_STAGES: Final = 16
FileName = Annotated[str, MaxLen(96)]
Endpoint = Annotated[str, MaxLen(128)]
PublicKey = Annotated[str, MaxLen(40)]

# Reasons for which a target asks again: another target uses the stage, perhaps one that will soon
# be noticed to be gone, or the stage has not done yet what it was asked for.
IN_USE: Final = "another target uses this stage"
LOADING: Final = "it loads its part of the model"
MEASURING: Final = "it measures passes"
# A file has more bytes than a count can tell.
MOST_FILE_BYTES: Final = 1 << 48
FilePlace = Annotated[int, Range(0, MOST_FILE_BYTES)]
FILE_PIECE_BYTES: Final = 1 << 19
# The headers of parts of models have some KB: 8 for the 1.5B, up to some hundred with all kinds.
MOST_SAMPLE_BYTES: Final = 1 << 18

# What a stage does with its sequences before a pass; the fields of StageCommand in brackets.
CUT, COPY, SAVE, RESTORE, DROP, KEEP, ROOM = range(7)


@message(60)
class StageOpenRequest:
    """A target asks to use a stage, which is then empty. It asks again until it has an answer other
    than IN_USE and LOADING.

    numerics_class: of the target before its self-test; that of the stage must be the same. part:
    the file name that the stage gives its part. first, end: its blocks. keeps_states: whether each
    sequence needs a second recurrent state.
    """

    model_hash: Name
    numerics_class: Name
    max_sequences: Annotated[int, Range(1, MAX_STREAMS_PER_MESSAGE)]
    part: FileName
    first: Count
    end: Count
    keeps_states: bool = False


@message(61)
class StageOpenReply:
    """That the stage is ready, or why it cannot be used. width: numbers in a row. num_cells: what
    its cache may come to have. saved_bytes: what saved sequences may take."""

    reason: Reason
    width: Count
    num_cells: Count
    saved_bytes: Count


@struct
class StageCommand:
    """CUT (seq_id to length), COPY (length of seq_id to the empty sequence other), SAVE and RESTORE
    (seq_id in slot other), DROP (slot other), KEEP (the recurrent state of seq_id, to which it goes
    back when it is cut), ROOM (for length tokens, now that nothing is left to be cut)."""

    kind: Annotated[int, Range(CUT, ROOM)]
    seq_id: Count = 0
    other: Count = 0
    length: Count = 0


@struct
class StagePiece:
    """Tokens of one sequence in a pass. start: where the sequence ends before."""

    seq_id: Count
    start: Count
    count: Count


@message(62, max_bytes=MAX_MESSAGE_BYTES)
class StagePassRequest:
    """Commands, and then a pass. rows: float32, those of all pieces one after the other."""

    number: Count
    commands: Annotated[tuple[StageCommand, ...], MaxLen(_MOST_COMMANDS)]
    pieces: Annotated[tuple[StagePiece, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    rows: Annotated[bytes, MaxLen(MAX_ROWS_BYTES)]


@message(63, max_bytes=MAX_MESSAGE_BYTES)
class StagePassReply:
    """The rows that a stage made of those of a pass, or why it could not."""

    number: Count
    reason: Reason
    rows: Annotated[bytes, MaxLen(MAX_ROWS_BYTES)]


@message(68, max_bytes=MOST_SAMPLE_BYTES + 1024)
class StageFactsRequest:
    """A target asks what a stage has, before it decides which blocks the stage gets.

    sample: the header of a file of some blocks without their weights, of which the stage measures
    passes; b"" if it need not. file_bytes: of that file.
    """

    sample: Annotated[bytes, MaxLen(MOST_SAMPLE_BYTES)] = b""
    file_bytes: FilePlace = 0


@message(69)
class StageFactsReply:
    """What a machine has for a stage, or why it cannot be used.

    free_bytes: memory that a part of a model could take. passes: what passes of the sample take;
    empty without one. model_hash, first, end: the only part that it runs; "" and 0 if it takes any.
    """

    reason: Reason
    free_bytes: FilePlace
    passes: Annotated[tuple[CostTable, ...], MaxLen(1)] = ()
    model_hash: Name = ""
    first: Count = 0
    end: Count = 0


@message(70)
class StageFileRequest:
    """A stage that has not got the file of its part asks the target for a piece of it. size: 0 asks
    for the SHA-256 of the whole file."""

    at: FilePlace
    size: Annotated[int, Range(0, FILE_PIECE_BYTES)]


@message(71, max_bytes=FILE_PIECE_BYTES + 1024)
class StageFileReply:
    """A piece of a file, shorter than it was asked for at the end of the file. total: bytes of the
    whole file. sha256: 64 hexadecimal digits if it was asked for."""

    at: FilePlace
    total: FilePlace
    data: Annotated[bytes, MaxLen(FILE_PIECE_BYTES)]
    sha256: Name = ""


# -- with the coordinator --------------------------------------------------------------------------


@message(64)
class StageNotice:
    """A stage tells, after joining and whenever it changes, where it listens and what it serves.

    key: the public key of its endpoint; "" for one on the coordinator's machine without keys.
    part: the file of its part of a model; "" if no target has asked for one yet.
    """

    endpoint: Endpoint
    key: PublicKey
    part: Name


# Of a target that is no member yet, because it joins once it is ready. The codec knows its tag.
@message(65)
class StagesRequest:
    """A target asks where stages are, by their names or those of their machines' keys."""

    names: Annotated[tuple[Name, ...], MaxLen(MOST_STAGES)]


@struct
class StageFields:
    """Where a stage listens, with the key of its endpoint; both are empty if it has not joined."""

    name: Name
    endpoint: Endpoint
    key: PublicKey


@message(66)
class StagesReply:
    """The stages in the order in which they were asked for. error: why none is told."""

    error: Reason
    stages: Annotated[tuple[StageFields, ...], MaxLen(MOST_STAGES)]


@message(67)
class StageUserNotice:
    """The coordinator tells a stage which key may use it from now on; "" for none."""

    key: PublicKey
