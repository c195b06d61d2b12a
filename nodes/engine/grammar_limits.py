"""The work that a grammar may take: limits that end a text at the same token on every node."""

from typing import Final

# These limits count work and not seconds, so that all nodes give up at the same token. They are
# part of the numerics class.
#
# max_items_in_row bounds what a letter costs, which is up to its square: in rules that can be read
# in many ways, such as s ::= s s | [a-z], the items grow with the text. With 2,000, a mask of that
# took up to 1,200 ms and a token 180 ms; with 400, 140 and 15 ms. An object takes 4 for each of its
# optional properties. step_max_items is no measure of time: 128 optional properties need 45,000
# with 151,936 tokens, and 2 ms; the rule above takes 26 ms for 12,000. Grammars of which all is
# right need up to 25,000, because they write whitespace as a rule that calls itself. (SmolLM2 and
# Qwen2.5, a core of an Intel Xeon, 2026-12-01.)
LIMITS: Final = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 15_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 400,
    "verbose_errors": False,
}
# Those of a lexer that has seen nothing but one text. Wherever a shared lexer goes on, a fresh one
# must, too, or a text would depend on whether its lexer was shared. A fresh lexer has some of the
# states of a shared one. But it spends more fuel, because it has to work out what others already
# have: here it may spend ten times as much. A mask of 2,000,000 takes up to 40 ms (SmolLM2, a core
# of an Intel Xeon, 2026-12-02). A string with a maximum length has a state for each character.
APART_LIMITS: Final = {**LIMITS, "max_lexer_states": 30_000, "step_lexer_fuel": 2_000_000}
# Only a mask gives a lexer new fuel. Without that the 4,533rd token of a string of at most 50,000
# characters failed where a text was read again, for instance on another node. To refuel takes 0.01
# to 0.4 ms (128 tools), so it is not done at each token. A shared lexer spends at most about
# 200,000 on a token, so a fresh one has enough for eight.
TOKENS_OF_FUEL: Final = 128
APART_TOKENS_OF_FUEL: Final = 8
