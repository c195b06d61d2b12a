"""Turns bodies into jobs without a gateway, with OpenAI's values for what they do not name."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from airdraft.nodes.engine.traits import OPENAI_SAMPLING
from airdraft.nodes.gateway.answers import Answers
from airdraft.nodes.gateway.bodies import read
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job, with_sampling
from airdraft.nodes.gateway.shape import Api, Shape
from tests.nodes.gateway.fake_mesh import started


@dataclass(frozen=True, slots=True)
class Jobs:
    api: Api
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    strict_fields: bool = True

    def job(self, value: dict[str, Any]) -> Job:
        body, ignored = read(self.api.body, value, strict_fields=self.strict_fields)
        job = self.api.job(body, self.limits)
        options = with_sampling(job.options, job.sampling, OPENAI_SAMPLING)
        return replace(job, options=options, ignored=(*job.ignored, *ignored))

    def error(self, value: dict[str, Any]) -> ApiError:
        """The error that the client gets for a body."""
        with pytest.raises(ApiError) as caught:
            self.job(value)
        assert caught.value.status == 400
        assert caught.value.content()
        return caught.value

    def refused(self, value: dict[str, Any]) -> str | None:
        """The field that the error for a body names."""
        return self.error(value).param

    def shape(self, job: Job, object_id: str) -> Shape:
        """What writes an answer of toy-1, which has begun."""
        answers = Answers(job, object_id, 5)
        answers.on_event(0, started())
        return self.api.shape(answers)
