"""Handles clients' messages about requests, whole ones and those uploaded in pieces."""

from __future__ import annotations

from typing import Any

from mesh.codec import decode
from nodes.coordinator.requests.intake import Intake
from nodes.coordinator.requests.uploads import Uploads
from nodes.coordinator.sends import Send
from nodes.coordinator.serving import Serving
from nodes.coordinator.status.document import Reporting
from nodes.messages import CancelRequest, SubmitRequest, UploadOffer, UploadPiece
from nodes.messages.access import ForbiddenError


class ClientMessages:
    def __init__(
        self, serving: Serving, intake: Intake, uploads: Uploads, reporting: Reporting
    ) -> None:
        self._serving = serving
        self._intake = intake
        self._uploads = uploads
        self._reporting = reporting

    def take(
        self, peer: bytes, role: str, sender: str, message: Any, now: float
    ) -> list[Send] | None:
        """Return the messages to send in response; None if the message is not about requests.

        sender: the name under which requests share prefixes. Raises DecodeError or ForbiddenError.
        """
        match message:
            case SubmitRequest():
                self._uploads.forget(peer, message.request_id)
                return self._submit(peer, role, sender, message, now)
            case UploadOffer():
                return self._uploads.offered(peer, message, now)
            case UploadPiece():
                return self._uploaded(peer, role, sender, message, now)
            case CancelRequest(request_id=request_id):
                self._uploads.forget(peer, request_id)
                request = self._serving.ledger.requests.get((peer, request_id))
                return self._serving.cancel(request, now) if request is not None else []
        return None

    def _submit(
        self, peer: bytes, role: str, sender: str, submit: SubmitRequest, now: float
    ) -> list[Send]:
        self._reporting.num_submitted += 1
        return self._intake.submit(peer, role, sender, submit, now)

    def _uploaded(
        self, peer: bytes, role: str, sender: str, piece: UploadPiece, now: float
    ) -> list[Send]:
        """Take a piece of a large request.

        Raises DecodeError or ForbiddenError if the whole is no request.
        """
        frames, is_known = self._uploads.arrived(peer, piece, now)
        self._reporting.num_stale += not is_known
        if frames is None:
            return self._uploads.grants(now)
        # If this raises, the next tick grants the medium that is free now, so others do not wait.
        whole = decode(frames)
        if not isinstance(whole.message, SubmitRequest):
            kind = type(whole.message).__name__
            raise ForbiddenError(f"only requests may be uploaded, not {kind}")
        if whole.message.request_id != piece.request_id:
            raise ForbiddenError("an upload has another request id than its offer")
        return [*self._uploads.grants(now), *self._submit(peer, role, sender, whole.message, now)]
