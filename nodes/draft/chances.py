"""How likely guesses are to be right, as a draft node learns from committed tokens."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.nodes.draft.followed import Followed, Guess
from airdraft.nodes.engine.protocol import Logits
from airdraft.nodes.engine.sampling import probability, ranking
from airdraft.policies.acceptance import Calibration, DraftCalibration, OtherChoices


class Chances:
    """Makes guesses of logits, and corrects the calibration by what became of them."""

    def __init__(self, calibration: DraftCalibration | None) -> None:
        self._calibration = calibration or DraftCalibration()

    def _of(self, stream: Followed) -> Calibration:
        return self._calibration.of(stream.spec.sampling.temperature)

    def others_of(self, stream: Followed) -> OtherChoices:
        return self._of(stream).others

    def guess(
        self, stream: Followed, logits: Logits, position: int, *, has_others: bool = False
    ) -> Guess:
        """Returns what the model says next; has_others: with its other choices.

        Raises StreamError or MaskMissingError.
        """
        token_id = stream.sampler.sample(logits, position)
        confidence = probability(logits, token_id)
        calibration = self._of(stream)
        guess = Guess(token_id, stream.corrected(calibration.chance(confidence)), confidence)
        if has_others:
            num = calibration.others.count
            said = ranking(logits, stream.spec.sampling, position, num + 1)
            guess.others = [(other, False) for other in said if other != token_id][:num]
        return guess

    def learn(self, stream: Followed, new: Sequence[int]) -> None:
        """Compare guesses with committed tokens, used or not, and correct the calibration."""
        calibration = self._of(stream)
        for guess, token_id in zip(stream.guesses, new, strict=False):
            is_right = guess.token_id == token_id
            if guess.confidence is not None:
                stream.judged(calibration.chance(guess.confidence), is_right=is_right)
                calibration.observe(guess.confidence, accepted=is_right)
            if not is_right:
                if said := [other for other, _ in guess.others]:
                    calibration.others.observe(said.index(token_id) if token_id in said else None)
                break
