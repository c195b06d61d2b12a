"""The messages about models and streams, tags 16 and up: all that these modules declare.

docs/reference/protocol.md describes each of them.
"""

from nodes.messages.clients import *  # noqa: F403
from nodes.messages.fields import *  # noqa: F403
from nodes.messages.nodes import *  # noqa: F403
from nodes.messages.operators import *  # noqa: F403
