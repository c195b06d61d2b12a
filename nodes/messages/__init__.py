"""The messages about models and streams, tags 16 and up: all that these modules declare.

docs/reference/protocol.md describes each of them.
"""

from airdraft.nodes.messages.clients import *  # noqa: F403
from airdraft.nodes.messages.fields import *  # noqa: F403
from airdraft.nodes.messages.nodes import *  # noqa: F403
from airdraft.nodes.messages.operators import *  # noqa: F403
from airdraft.nodes.messages.stages import *  # noqa: F403
