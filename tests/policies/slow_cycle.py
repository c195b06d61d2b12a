"""The price of a cycle in plain Python, from its definition and an observation: the reference.

Loops over batches, nodes and streams; the length of the cycle by golden section, not by formula.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from policies.latency import CostTable
from policies.plan import DraftView, Observation, StreamView
from tests.policies.slow_play import Batch, Play

HEADER_BITS, ENTRY_BITS, TEXT_BITS = 1224, 80, 32
GOLDEN = (5**0.5 - 1) / 2
# Stream id and gamma of each member.
Members = Sequence[tuple[int, int]]


@dataclass
class Price:
    """batches: (draft by node, air by medium, head_s, verify_s, lap_s, tokens) of each."""

    price_s: float
    cycle_s: float
    natural_s: float
    tokens_per_s: float
    batches: list[tuple[dict[str, float], dict[str, float], float, float, float, float]]


def pass_s(table: CostTable, num_tokens: int, used_cells: int) -> float:
    """Seconds of a pass by the table's points; a larger pass never takes less."""
    longest = 0.0
    points = list(zip(table.sizes, table.seconds, strict=True))
    for tokens in range(1, num_tokens + 1):
        if tokens <= points[0][0]:
            seconds = points[0][1]
        elif tokens <= points[-1][0]:
            for (x, y), (x_next, y_next) in pairwise(points):
                if x < tokens <= x_next:
                    seconds = y + (y_next - y) * (tokens - x) / (x_next - x)
        elif len(points) == 1:
            seconds = points[0][1] * tokens / points[0][0]
        else:
            (x, y), (x_last, y_last) = points[-2:]
            slope = max(0.0, (y_last - y) / (x_last - x))
            seconds = y_last + slope * (tokens - x_last)
        longest = max(longest, seconds + table.per_cell_s * used_cells * tokens)
    return longest


@dataclass(frozen=True)
class Tokens:
    """Of a batch: its guessing streams, their expected guesses, the chance that there are none."""

    streams: int = 0
    guesses: float = 0.0
    none: float = 1.0

    def with_stream(self, sent: float, none: float) -> "Tokens":
        return Tokens(self.streams + 1, self.guesses + sent, self.none * none)


class SlowCycle:
    """An observation with its views by name."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self.streams = {view.stream_id: view for view in observation.streams}
        self.drafts = {draft.name: draft for draft in observation.drafts}
        self._verify: dict[int, float] = {}
        self._draft: dict[tuple[str, int], float] = {}

    def verify_s(self, num_tokens: float) -> float:
        """A pass of the target, with the prompts' share of its time."""
        return between(self._verify_s, num_tokens)

    def _verify_s(self, num_tokens: int) -> float:
        if num_tokens not in self._verify:
            target = self.observation.target
            assert target is not None
            seconds = pass_s(target.decode, num_tokens, self.observation.used_cells)
            self._verify[num_tokens] = seconds / (1 - self.observation.prefill_share)
        return self._verify[num_tokens]

    def plain_pass_s(self, num_plain: int) -> float:
        """A pass of plain streams: answers follow one another on the air as passes do."""
        link, bits = self.observation.target_link, HEADER_BITS
        bits += num_plain * (ENTRY_BITS + self.observation.token_bits + TEXT_BITS)
        answer_s = link.frame_s + bits / link.rate_bps if num_plain else 0.0
        return max(self.verify_s(num_plain), answer_s)

    def stretch(self, num_plain: int) -> float:
        """How many times as long messages on the target's medium take beside plain answers."""
        if not num_plain:
            return 1.0
        link, bits = self.observation.target_link, HEADER_BITS
        bits += num_plain * (ENTRY_BITS + self.observation.token_bits + TEXT_BITS)
        answer_s = link.frame_s + bits / link.rate_bps
        return 1 / (1 - min(0.9, answer_s / self.plain_pass_s(num_plain)))

    def step_s(self, draft: DraftView, num_tokens: float) -> float:
        """A pass of a draft node; of expected numbers of streams, if some may have stopped."""
        return between(lambda n: self._step_s(draft, n), num_tokens)

    def _step_s(self, draft: DraftView, num_tokens: int) -> float:
        key = (draft.name, num_tokens)
        if key not in self._draft:
            self._draft[key] = pass_s(draft.costs.decode, num_tokens, draft.used_cells)
        return self._draft[key]

    def bounds_of(self, view: StreamView) -> tuple[int, int]:
        """Least and most guesses that a stream may make."""
        most = max(0, view.tokens_left - 1) if view.draft in self.drafts else 0
        if view.fixed_gamma is None:
            cap = self.drafts[view.draft].max_gamma if view.draft in self.drafts else 0
            return 0, min(cap, most)
        return min(view.fixed_gamma, most), min(view.fixed_gamma, most)

    def first_of(self, stream_id: int) -> float:
        """Chance that a stream's first guess is made."""
        view = self.streams[stream_id]
        return view.kept if view.starts is None else view.starts

    def earned(self, stream_id: int, gamma: int) -> float:
        """1 + a_1 + a_1 a_2 + ..."""
        view = self.streams[stream_id]
        total = so_far = 1.0
        for position in range(gamma):
            known = position < len(view.alphas)
            so_far *= view.alphas[position] if known else view.alpha
            total += so_far
        return total

    def stages(
        self, members: Members, equal_shares: bool = False
    ) -> "tuple[dict[str, float], dict[str, float], float, Tokens]":
        """Draft by node, air by medium, seconds that no pass takes, tokens."""
        draft_s, by_medium, head_s, num_tokens = self.guessing(members, equal_shares)
        way_s, medium = self.way_s(num_tokens), self.target_medium()
        if way_s:
            by_medium[medium] = by_medium.get(medium, 0.0) + way_s
        return draft_s, by_medium, head_s + way_s, num_tokens

    def way_s(self, num_tokens: Tokens) -> float:
        """On the air, to the target and back: all guesses go out, and come back as text."""
        link, token_bits = self.observation.target_link, self.observation.token_bits
        if not num_tokens.streams:
            return 0.0
        bits = 2 * HEADER_BITS + 2 * ENTRY_BITS * num_tokens.streams
        bits += num_tokens.guesses * token_bits
        bits += (num_tokens.guesses + num_tokens.streams) * (token_bits + TEXT_BITS)
        return 2 * link.frame_s + bits / link.rate_bps

    def target_medium(self) -> str:
        return self.observation.target_link.medium or "the target's own"

    def guessing(
        self, members: Members, equal_shares: bool = False
    ) -> "tuple[dict[str, float], dict[str, float], float, Tokens]":
        """The same without what goes to the target."""
        draft_s, sends, head_s, num_tokens = {}, {}, 0.0, Tokens()
        for draft in self.observation.drafts:
            mine = [
                (g, self.first_of(k), self.streams[k].kept)
                for k, g in members
                if g and self.streams[k].draft == draft.name
            ]
            if not mine:
                continue
            # The first step eats two tokens a stream: what was committed and not yet seen.
            seconds = self.step_s(draft, 2 * len(mine))
            for step in range(2, max(mine)[0] + 1):
                # Those that have not stopped: all guesses before were likely enough.
                seconds += self.step_s(
                    draft,
                    sum(first * kept ** (step - 2) for g, first, kept in mine if g >= step),
                )
            draft_s[draft.name] = seconds
            # One message each way; every stream's entry in both, sent + 1 token ids out, sent back.
            bits = 2 * HEADER_BITS
            for g, first, kept in mine:
                sent = sum(first * kept**position for position in range(g))
                bits += 2 * ENTRY_BITS + (2 * sent + 1) * self.observation.token_bits
                num_tokens = num_tokens.with_stream(sent, 1 - first)
            sends[draft.name] = 2 * draft.link.frame_s + bits / draft.link.rate_bps
        air_s: dict[str, list[float]] = {}
        for name, seconds in sends.items():
            air_s.setdefault(self.medium(name), []).append(seconds)
        by_medium = {
            medium: len(times) * max(times) if equal_shares else sum(times)
            for medium, times in air_s.items()
        }
        for name, seconds in draft_s.items():
            link, shared_s = self.drafts[name].link, by_medium[self.medium(name)]
            # Half of what is the others' on the air is in its way, unless nothing else is.
            half_s = shared_s if equal_shares else (shared_s + sends[name]) / 2
            head_s = max(head_s, link.rtt_s + max(shared_s, seconds + half_s))
        return draft_s, by_medium, head_s, num_tokens

    def medium(self, name: str) -> str:
        return self.drafts[name].link.medium or f"own of {name}"

    def price(
        self,
        batches: Sequence[Members],
        *,
        equal_shares: bool = False,
        overlap: bool = True,
        played: bool = False,
    ) -> Price:
        """Price of batches that together hold every stream. played: where they meet on the air."""
        members = [pair for batch in batches for pair in batch]
        assert sorted(k for k, _ in members) == sorted(self.streams)
        staged = [self.stages(batch, equal_shares) for batch in batches]
        price = self.price_of_stages(staged, members, overlap)
        air_s: dict[str, float] = {}
        for part in price.batches:
            for medium, seconds in part[1].items():
                air_s[medium] = air_s.get(medium, 0.0) + seconds
        meet = sum(1 for part in price.batches if part[5]) > 1
        meet = meet and max(air_s.values()) > 0.1 * price.natural_s
        if not played or equal_shares or not overlap or not meet:
            return price
        return self.price_of_stages(staged, members, lap_s=self.played_s(batches, price))

    def played_s(self, batches: Sequence[Members], price: Price) -> float:
        """Seconds of a lap where each stage serves who asks first."""
        made = []
        stretch = self.stretch(sum(1 for batch in batches for _, g in batch if not g))
        for batch, part in zip(batches, price.batches, strict=True):
            if not part[5]:
                continue
            nodes = []
            for name, draft_s in part[0].items():
                mine = [(k, g) for k, g in batch if g and self.streams[k].draft == name]
                (message_s,) = self.guessing(mine)[1].values()
                if self.medium(name) == self.target_medium():
                    message_s *= stretch
                rtt_s = self.drafts[name].link.rtt_s
                nodes.append((name, self.medium(name), rtt_s, message_s / 2, draft_s))
            way_s = self.way_s(self.stages(batch)[3]) / 2 * stretch
            made.append(Batch(nodes, part[3], (self.target_medium(), way_s)))
        num_plain = sum(1 for batch in batches for _, g in batch if not g)
        return Play(made, self.verify_s(num_plain) / 2, price.natural_s / len(made)).lap_s()

    def price_of_stages(
        self, staged, members: Members, overlap: bool = True, lap_s: float | None = None
    ) -> Price:
        plain = [k for k, g in members if not g]
        plain_weight = sum(self.streams[k].weight for k in plain)
        worth = sum(self.streams[k].weight / self.earned(k, g) for k, g in members if g)
        plain_s = self.plain_pass_s(len(plain))
        parts = []
        for draft_s, air_s, head_s, num_tokens in staged:
            if num_tokens.streams:
                # Either nobody makes a guess, or as many are made as are then expected.
                alone = num_tokens.streams + len(plain)
                verify_s = num_tokens.none * self.verify_s(alone)
                likely = 1 - num_tokens.none
                if likely:
                    verify_s += likely * self.verify_s(alone + num_tokens.guesses / likely)
                alone_s = head_s + verify_s + self.verify_s(len(plain)) / 2
                alone_s += air_s.get(self.target_medium(), 0.0) * (self.stretch(len(plain)) - 1)
                total = num_tokens.streams + num_tokens.guesses
                parts.append((draft_s, air_s, head_s, verify_s, alone_s, total))
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
        laps = [part[4] for part in parts]
        num_batches = sum(1 for part in parts if part[5])
        if lap_s is not None:
            longest_s = lap_s
        elif overlap:
            air_s = max((busy[key] for key in busy if key[0] == "air"), default=0.0)
            longest_s = with_waits(max(laps), air_s, num_batches)
        else:
            longest_s = sum(laps)
        natural_s = max([0.0, *busy.values(), target_s, longest_s])
        if num_batches == 0:
            rate = len(plain) / plain_s
            return Price(plain_weight * plain_s, plain_s, natural_s, rate, parts)

        def plain_passes(cycle_s: float) -> float:
            return num_batches + (cycle_s - target_s) / plain_s

        def price(cycle_s: float) -> float:
            plain_token_s = cycle_s / plain_passes(cycle_s) if plain else 0.0
            return cycle_s * worth + plain_weight * plain_token_s

        cycle_s = natural_s
        if plain:
            cycle_s = _least(price, natural_s, max(natural_s, price(natural_s) / worth))
        rate = sum(self.earned(k, g) for k, g in members if g) / cycle_s
        rate += len(plain) * plain_passes(cycle_s) / cycle_s if plain else 0.0
        return Price(price(cycle_s), cycle_s, natural_s, rate, parts)

    def cheapest(self, order: Sequence[int], options: Sequence[Sequence[int]]) -> float:
        """Least price over all consecutive cuts of `order` and an option for each batch."""
        n = len(order)
        pieces: dict[tuple[int, int], list[Members]] = {}
        for first in range(n):
            for end in range(first + 1, n + 1):
                found = {tuple(zip(order[first:end], o[first:end], strict=True)) for o in options}
                pieces[first, end] = sorted(found)
        stages = {batch: self.stages(batch) for found in pieces.values() for batch in found}
        least = float("inf")
        for cuts in product((False, True), repeat=n - 1):
            bounds = [0, *(k + 1 for k, cut in enumerate(cuts) if cut), n]
            for batches in product(*(pieces[pair] for pair in pairwise(bounds))):
                members = [pair for batch in batches for pair in batch]
                staged = [stages[batch] for batch in batches]
                least = min(least, self.price_of_stages(staged, members).price_s)
        return least


def with_waits(lap_s: float, air_s: float, num_batches: int) -> float:
    """The cycle C of which C = lap + B^2 / (4 (M - 1) (C - B)) is true, by bisection."""
    if num_batches < 2:
        return lap_s
    others_s = air_s * (1 - 1 / num_batches)
    low, high = max(lap_s, others_s), lap_s + 2 * others_s
    for _ in range(100):
        middle = (low + high) / 2
        free_s = middle - others_s
        waits_s = others_s**2 / (4 * (num_batches - 1) * free_s) if free_s else float("inf")
        low, high = (low, middle) if lap_s + waits_s <= middle else (middle, high)
    return high


def between(seconds, number: float) -> float:
    """A function of whole numbers, taken as straight between them."""
    low = int(number + 1e-9)
    part = max(0.0, number - low)
    return seconds(low) if part < 1e-9 else (1 - part) * seconds(low) + part * seconds(low + 1)


def _least(price, low: float, high: float) -> float:
    """Where a function with one minimum is least, by golden section."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = price(left), price(right)
    while high - low > 1e-9 * high and left < right:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = price(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = price(right)
    return min((low, left, right, high), key=price)
