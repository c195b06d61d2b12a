"""Finds out how the answers of a model begin: with thoughts or without."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from airdraft.nodes.engine.chat.tools import told_switch
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.metadata import MARKED, thinking_after
from airdraft.nodes.engine.protocol import EngineError, InvalidInputError

# The last tokens of a prompt hold the mark of thoughts, if it is there.
_END_TOKENS: Final = 32
_ANY_DATE: Final = "2000-01-01"


def find_thinking(model: LlamaModel) -> None:
    """Find out whether prompts end in thoughts; the template's code decides this.

    To be called once, by who serves conversations. Raises EngineError.
    """
    traits = model.info.traits
    if traits.thinking != MARKED:
        return
    usual, off, on = (_thinking_if(model, thinks) for thinks in (None, False, True))
    traits = replace(traits, thinking=usual, thinking_off=off, thinking_on=on)
    model.info = replace(model.info, traits=traits)


def _thinking_if(model: LlamaModel, thinks: bool | None) -> str:
    """Returns how answers begin for a request that switches thinking on or off."""
    hello, switch = [("user", "Hello")], told_switch(thinks)
    try:
        prompt = model.tokenizer.encode_chat(hello, date=_ANY_DATE, tools=switch)
    except InvalidInputError:
        # The template refuses this conversation, or takes too long.
        return MARKED
    except (OSError, RuntimeError) as error:
        raise EngineError(f"the chat template of {model.info.model}: {error}") from error
    return thinking_after(model.vocabulary.spelled(prompt[-_END_TOKENS:]))
