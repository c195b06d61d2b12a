"""The paper's scenario, and fewer tasks of it."""

from dataclasses import replace

from bench.paper.scenario import PAPER, load

BASE = load(PAPER)


def smaller(num, **changes):
    return replace(BASE, tasks=replace(BASE.tasks, num=num, **changes))
