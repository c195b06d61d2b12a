"""Recordings of toys, made as those of real models are."""

from airdraft.nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer
from airdraft.policies.latency import CostTable, NodeCosts
from bench.emulate.record import add_guesses, dense_recording, record_texts
from bench.emulate.recording import RecordedModel, Recording

COSTS = NodeCosts(CostTable((1, 32), (1e-3, 2e-3)), CostTable((32,), (4e-3,)))


def toy_recording(
    *agreements: float,
    num_texts: int = 6,
    max_tokens: int = 40,
    eog_rate: float = 0.0,
    num_vocab: int = 96,
) -> Recording:
    """A toy target's texts with the guesses of a draft for each agreement, named draft-0, ..."""
    config = ToyConfig(num_vocab=num_vocab, eog_rate=eog_rate)
    prompts = [("test", f"{i} is a prompt") for i in range(num_texts)]
    tokenizer = ToyTokenizer(num_vocab)
    texts = record_texts(ToyModel(config), tokenizer, prompts, max_tokens, _silent)
    for agreement in agreements:
        draft = ToyModel(ToyConfig(num_vocab=num_vocab, eog_rate=eog_rate, agreement=agreement))
        texts = add_guesses(draft, texts, _silent)
    return dense_recording(
        RecordedModel("toy", "aa"),
        [RecordedModel(f"draft-{i}", "bb") for i in range(len(agreements))],
        texts,
        tokenizer,
        frozenset({TOY_EOG}),
    )


def _silent(label: str, done: int, total: int) -> None:
    """Progress that nobody wants to see."""
