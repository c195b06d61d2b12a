"""The price of a cycle in plain Python, from its definition and an observation: the reference.

Loops over batches, nodes and streams; the length of the cycle by search, not by formula.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from scipy.optimize import brentq, minimize_scalar

from airdraft.policies.latency import CostTable
from airdraft.policies.plan import DraftView, Observation

HEADER_BITS, ENTRY_BITS, TEXT_BITS = 1224, 80, 32
# Of seconds.
EXACT = {"xatol": 1e-9}
# Stream id and gamma of each member.
Members = Sequence[tuple[int, int]]


@dataclass
class Price:
    """batches: (draft by node, air by medium, head_s, verify_s, round_s, tokens) of each."""

    price_s: float
    cycle_s: float
    natural_s: float
    tokens_per_s: float
    batches: list[tuple[dict[str, float], dict[str, float], float, float, float, float]]


@cache
def pass_s(table: CostTable, num_tokens: int, used_cells: int) -> float:
    """Seconds of a pass; a larger pass never takes less, and one of nothing none."""
    sizes = range(1, num_tokens + 1)
    return max((table.at(size, used_cells) for size in sizes), default=0.0)


class SlowCycle:
    """An observation with its views by name."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self.streams = {view.stream_id: view for view in observation.streams}
        self.drafts = {draft.name: draft for draft in observation.drafts}

    def verify_s(self, num_tokens: int) -> float:
        """A pass of the target, with the prompts' share of its time."""
        target = self.observation.target
        assert target is not None
        seconds = pass_s(target.decode, num_tokens, self.observation.used_cells)
        return seconds / (1 - self.observation.prefill_share)

    def answer_s(self, num_plain: int) -> float:
        """On the air, for what a pass of plain streams says."""
        link, bits = self.observation.target_link, HEADER_BITS
        bits += num_plain * (ENTRY_BITS + self.observation.token_bits + TEXT_BITS)
        return link.frame_s + bits / link.rate_bps if num_plain else 0.0

    def plain_pass_s(self, num_plain: int) -> float:
        """A pass of plain streams: answers follow one another on the air as passes do."""
        return max(self.verify_s(num_plain), self.answer_s(num_plain))

    def stretch(self, num_plain: int) -> float:
        """How many times as long messages on the target's medium take beside plain answers."""
        if not num_plain:
            return 1.0
        return 1 / (1 - min(0.9, self.answer_s(num_plain) / self.plain_pass_s(num_plain)))

    def step_s(self, draft: DraftView, num_tokens: int) -> float:
        """A pass of a draft node."""
        return pass_s(draft.costs.decode, num_tokens, draft.used_cells)

    def earned(self, stream_id: int, gamma: int) -> float:
        """1 + a + a^2 + ..."""
        view = self.streams[stream_id]
        total = so_far = 1.0
        for _ in range(gamma):
            so_far *= view.alpha
            total += so_far
        return total

    def stages(self, members: Members) -> tuple[dict[str, float], dict[str, float], float, int]:
        """Draft by node, air by medium, seconds that no pass takes, tokens."""
        draft_s, by_medium, head_s = self.guessing(members)
        guesses = [g for _, g in members if g]
        num_tokens = len(guesses) + sum(guesses)
        if guesses:
            # On the air, to the target and back: all guesses go out, and come back as text.
            link, token_bits = self.observation.target_link, self.observation.token_bits
            bits = 2 * HEADER_BITS + 2 * ENTRY_BITS * len(guesses) + sum(guesses) * token_bits
            bits += num_tokens * (token_bits + TEXT_BITS)
            way_s, medium = 2 * link.frame_s + bits / link.rate_bps, self.target_medium()
            if way_s:
                by_medium[medium] = by_medium.get(medium, 0.0) + way_s
            head_s += way_s
        return draft_s, by_medium, head_s, num_tokens

    def target_medium(self) -> str:
        return self.observation.target_link.medium or "the target's own"

    def guessing(self, members: Members) -> tuple[dict[str, float], dict[str, float], float]:
        """The same without what goes to the target."""
        draft_s, sends, head_s = {}, {}, 0.0
        for draft in self.observation.drafts:
            mine = [g for k, g in members if g and self.streams[k].draft == draft.name]
            if not mine:
                continue
            # The first step eats two tokens a stream: what was committed and not yet seen.
            seconds = self.step_s(draft, 2 * len(mine))
            for step in range(2, max(mine) + 1):
                seconds += self.step_s(draft, sum(g >= step for g in mine))
            draft_s[draft.name] = seconds
            # One message each way; every stream's entry in both, g + 1 token ids out, g back.
            bits = 2 * HEADER_BITS
            for g in mine:
                bits += 2 * ENTRY_BITS + (2 * g + 1) * self.observation.token_bits
            sends[draft.name] = 2 * draft.link.frame_s + bits / draft.link.rate_bps
        air_s: dict[str, list[float]] = {}
        for name, seconds in sends.items():
            air_s.setdefault(self.medium(name), []).append(seconds)
        by_medium = {medium: sum(times) for medium, times in air_s.items()}
        for name, seconds in draft_s.items():
            link, shared_s = self.drafts[name].link, by_medium[self.medium(name)]
            # Half of what is the others' on the air is in its way, unless nothing else is.
            half_s = (shared_s + sends[name]) / 2
            head_s = max(head_s, link.rtt_s + max(shared_s, seconds + half_s))
        return draft_s, by_medium, head_s

    def medium(self, name: str) -> str:
        return self.drafts[name].link.medium or f"own of {name}"

    def price(self, batches: Sequence[Members]) -> Price:
        """Price of batches that together hold every stream."""
        members = [pair for batch in batches for pair in batch]
        assert sorted(k for k, _ in members) == sorted(self.streams)
        plain = [k for k, g in members if not g]
        plain_weight = sum(self.streams[k].weight for k in plain)
        weight_per_token = sum(self.streams[k].weight / self.earned(k, g) for k, g in members if g)
        plain_s = self.plain_pass_s(len(plain))
        parts = []
        for batch in batches:
            draft_s, air_s, head_s, num_tokens = self.stages(batch)
            if num_tokens:
                verify_s = self.verify_s(num_tokens + len(plain))
                alone_s = head_s + verify_s + self.verify_s(len(plain)) / 2
                alone_s += air_s.get(self.target_medium(), 0.0) * (self.stretch(len(plain)) - 1)
                parts.append((draft_s, air_s, head_s, verify_s, alone_s, num_tokens))
            else:
                parts.append(({}, {}, 0.0, 0.0, 0.0, 0))
        busy: dict[tuple[str, str], float] = {}
        for draft_s, air_s, *_ in parts:
            for kind, seconds in (("draft", draft_s), ("air", air_s)):
                for name, stage_s in seconds.items():
                    busy[kind, name] = busy.get((kind, name), 0.0) + stage_s
        if ("air", self.target_medium()) in busy:
            busy["air", self.target_medium()] *= self.stretch(len(plain))
        target_s = sum(part[3] for part in parts)
        rounds = [part[4] for part in parts]
        num_batches = sum(1 for part in parts if part[5])
        air_s = max((busy[key] for key in busy if key[0] == "air"), default=0.0)
        longest_s = with_waits(max(rounds), air_s, num_batches)
        natural_s = max([0.0, *busy.values(), target_s, longest_s])
        if num_batches == 0:
            rate = len(plain) / plain_s
            return Price(plain_weight * plain_s, plain_s, natural_s, rate, parts)

        def plain_passes(cycle_s: float) -> float:
            return num_batches + (cycle_s - target_s) / plain_s

        def price(cycle_s: float) -> float:
            plain_token_s = cycle_s / plain_passes(cycle_s) if plain else 0.0
            return cycle_s * weight_per_token + plain_weight * plain_token_s

        cycle_s = natural_s
        if plain:
            bounds = natural_s, max(natural_s, price(natural_s) / weight_per_token)
            inside = minimize_scalar(price, bounds=bounds, method="bounded", options=EXACT)
            cycle_s = min(*bounds, inside.x, key=price)
        rate = sum(self.earned(k, g) for k, g in members if g) / cycle_s
        rate += len(plain) * plain_passes(cycle_s) / cycle_s if plain else 0.0
        return Price(price(cycle_s), cycle_s, natural_s, rate, parts)


def with_waits(round_s: float, air_s: float, num_batches: int) -> float:
    """The cycle C of which C = round + B^2 / (4 (M - 1) (C - B)) is true."""
    others_s = air_s * (1 - 1 / num_batches) if num_batches else 0.0
    if not others_s:
        return round_s

    def missing_s(cycle_s: float) -> float:
        waits_s = others_s**2 / (4 * (num_batches - 1) * (cycle_s - others_s))
        return round_s + waits_s - cycle_s

    least_s = max(round_s, others_s * (1 + 1e-12))
    return brentq(missing_s, least_s, round_s + 2 * others_s, xtol=1e-15, rtol=1e-13)
