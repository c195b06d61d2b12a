"""Invitation tokens, and the enrolment of a key with the coordinator that issued one."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Self

from airdraft.mesh.endpoints import check_connect
from airdraft.mesh.errors import DecodeError, EndpointError, KeysError, MeshError
from airdraft.mesh.keys import ClientKeys, KeyPair, is_key
from airdraft.mesh.messages import EnrolReply, EnrolRequest
from airdraft.nodes.keys.asking import RefusedToAnswerError, ask

_PREFIX = "airdraft1-"
_MAX_TOKEN_CHARS = 2048
_TIMEOUT_S = 10.0


class EnrolError(MeshError):
    """The coordinator did not accept the key; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """The content of a token: the coordinator's endpoint and key, and a key pair of one use."""

    endpoint: str
    server_key: str
    pair: KeyPair = field(repr=False)

    def token(self) -> str:
        fields = [self.endpoint, self.server_key, self.pair.public, self.pair.secret]
        return _PREFIX + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")

    @classmethod
    def from_token(cls, text: str) -> Self:
        """Parse a token. Raises KeysError, which quotes none of the text because it is secret."""
        text = text.strip()
        body = text.removeprefix(_PREFIX)
        try:
            if body == text or len(text) > _MAX_TOKEN_CHARS:
                raise ValueError
            fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            endpoint, server_key, public, secret = fields
            are_keys = all(is_key(key) for key in (server_key, public, secret))
            if not are_keys or not isinstance(endpoint, str):
                raise ValueError
            check_connect(endpoint)
        except (ValueError, TypeError, RecursionError, binascii.Error, EndpointError):
            raise KeysError(
                "this is not an invitation: give the whole line that `airdraft keys invite` printed"
            ) from None
        return cls(endpoint, server_key, KeyPair(public, secret))


async def enrol(endpoint: str, keys: ClientKeys, public_key: str, name: str) -> EnrolReply:
    """Have the coordinator authorize public_key in place of the key in `keys`.

    Raises EnrolError.
    """
    try:
        request = EnrolRequest(public_key, name)
        reply = await ask(endpoint, keys, request, EnrolReply, _TIMEOUT_S)
    except RefusedToAnswerError as error:
        raise EnrolError(str(error)) from None
    except (TimeoutError, DecodeError):
        raise EnrolError(
            f"no answer from {endpoint} within {_TIMEOUT_S:g} s: is the coordinator running, "
            f"and is the invitation younger than its expiry and unused?"
        ) from None
    if reply.error:
        raise EnrolError(reply.error)
    return reply
