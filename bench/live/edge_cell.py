"""The edge cell: its devices, stations, rates and texts, and the report of its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median

from bench.asking import Taken
from bench.emulate.cell import Cell, Station
from bench.harness.report import head, row
from bench.harness.streams import EMULATED
from bench.pairs import paired_ratio

AIR = "cell"
NUM_DRAFTS = 4
# Rates of the stations as shares of the fastest station's.
RATES = (0.25, 0.5, 1.0, 1.0)
FRAME_S = 0.5e-3
# Acceptance -> draft whose guesses are replayed, and least and greatest acceptance of its texts.
# The times are those of the same device for both drafts.
ALPHAS = {
    0.4: ("smollm2-draft", 0.35, 0.45),
    0.5: ("smollm2-draft", 0.45, 0.55),
    0.6: ("smollm2-draft", 0.55, 0.65),
    0.7: ("smollm2-135m-q4_0", 0.65, 0.75),
    0.8: ("smollm2-135m-q4_0", 0.75, 0.85),
    0.9: ("smollm2-135m-q4_0", 0.85, 0.95),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One edge cell. rate_bps: rate of the fastest station when no other one sends.
    is_target_on_air: the target is a station, too, with that rate; otherwise it is at the hub.
    has_ideal_air: frames are sent in order of arrival, without back-off and collisions."""

    rate_bps: float
    alpha: float
    num_streams: int = 16
    warm_up_s: float = 8.0
    seconds: float = 12.0
    is_target_on_air: bool = False
    has_ideal_air: bool = False

    @property
    def place(self) -> str:
        """The setting in words."""
        where = ", the target on it" if self.is_target_on_air else ""
        air = ", ideal air" if self.has_ideal_air else ""
        return f"cell of {self.rate_bps / 1e3:g} kbit/s{air}{where}, alpha {self.alpha:g}"

    def cell(self) -> Cell:
        """Returns the cell. Its stations have the names of their nodes."""
        stations = [
            Station(name=f"draft-{k}", rate_bps=self.rate_bps * part, delay_s=1e-3)
            for k, part in enumerate(RATES)
        ]
        if self.is_target_on_air:
            stations.append(Station(name="target-0", rate_bps=self.rate_bps, delay_s=1e-3))
        cell = Cell(stations=tuple(stations), frame_s=FRAME_S)
        return replace(cell, window=0) if self.has_ideal_air else cell


def node_file(draft: str = "") -> Path:
    """Returns the description of a draft node that replays a draft; by default of the target."""
    return EMULATED / "nodes" / f"edge-{draft or 'target'}.toml"


@dataclass(slots=True)
class Figures(Taken):
    """Figures of a run. tokens_per_s: rate of all streams. promised: observed price over the
    predicted price of the plan in force. token_s: mean over streams of seconds a token, which plans
    minimise. errors: by stage, median and p95 of errors of predicted times.
    """

    tokens_per_s: float = 0.0
    promised: float = 0.0
    token_s: float = 0.0
    num_texts: int = 0
    num_wrong: int = 0
    wire_bytes: int = 0
    errors: dict[str, list[float]] = field(default_factory=dict)


# Figures of each turn, by policy.
Turns = Mapping[str, Sequence[Figures]]
HEAD = head(
    *("cell kbit/s", "alpha", "policy", "tokens/s", "ms a token", "to plain (95 %)"),
    *("price seen / predicted", "accepted", "passes with guesses", "bytes a token"),
    *("plan error", "pass error", "wrong texts"),
)


def row_of(setting: Setting, policy: str, found: Turns) -> str:
    """Returns a policy's row. In a simulation no messages, passes and texts are measured."""
    figures, turns = together(found[policy]), found[policy]
    tokens = figures.num_rounds + figures.num_plain_steps + figures.num_accepted
    plain = [turn.tokens_per_s for turn in found.get("plain", ())]
    pairs = list(zip(plain, (turn.tokens_per_s for turn in turns), strict=False))
    errors = [figures.errors.get(stage) for stage in ("plan", "pass")]
    return row(
        *(f"{setting.rate_bps / 1e3:g}", setting.alpha, policy, f"{figures.tokens_per_s:.1f}"),
        f"{figures.token_s * 1e3:.2f}",
        paired_ratio(pairs) if pairs else "-",
        # Without guesses no price is predicted.
        f"{figures.promised:.2f}" if figures.promised else "-",
        f"{figures.acceptance:.2f}",
        f"{figures.guessing_share:.2f}",
        f"{figures.wire_bytes / max(1, tokens):.1f}",
        *("-" if error is None else f"{error[0]:.2f}, p95 {error[1]:.2f}" for error in errors),
        f"{figures.num_wrong} of {figures.num_texts}" if figures.num_texts else "-",
    )


def together(turns: Sequence[Figures]) -> Figures:
    """Join the figures of turns: sums of counts, means of rates, medians of errors."""
    made = Figures()
    for each in fields(Figures):
        values = [getattr(turn, each.name) for turn in turns]
        if each.name != "errors":
            setattr(made, each.name, fmean(values) if each.type == "float" else sum(values))
    for stage in sorted({stage for turn in turns for stage in turn.errors}):
        seen = [turn.errors[stage] for turn in turns if stage in turn.errors]
        made.errors[stage] = [median(of_turns) for of_turns in zip(*seen, strict=True)]
    return made


def summary(found: Mapping[Setting, Turns]) -> str:
    """Compare auto with the best other policy, by setting and over all of them."""
    lines, to_others, to_quickest = [], [], []
    for setting, turns in found.items():
        others = {name: together(turns[name]) for name in turns if name != "auto"}
        if others and "auto" in turns:
            best = max(others, key=lambda name: others[name].tokens_per_s)
            both = zip(turns[best], turns["auto"], strict=True)
            ratio = paired_ratio([(a.tokens_per_s, b.tokens_per_s) for a, b in both])
            lines.append(f"{setting.place}: auto to {best} {ratio}")
            to_others.append(ratio.median)
            quickest_s = min(figures.token_s for figures in others.values())
            to_quickest.append(quickest_s / together(turns["auto"]).token_s)
    for name, values in (
        ("auto to the best other policy, tokens/s", to_others),
        ("the same by the mean stream's seconds a token", to_quickest),
    ):
        if values:
            lines.append(f"{name}: least {min(values):.3f}, median {median(values):.3f}")
    return "\n".join(lines)


def faults_of(found: Mapping[Setting, Turns]) -> list[str]:
    """Returns what makes a run worthless: wrong texts, and auto without any guesses."""
    made = [(name, turn) for by in found.values() for name, turns in by.items() for turn in turns]
    num_wrong = sum(turn.num_wrong for _, turn in made)
    faults = [f"{num_wrong} texts differ from the recording"] if num_wrong else []
    guesses = [turn.num_guesses for name, turn in made if name == "auto"]
    if guesses and not max(guesses):
        faults.append("auto took no guesses")
    return faults
