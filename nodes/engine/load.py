"""Opens a model for a node: self-tested, calibrated, and in its fastest exact form."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from airdraft.nodes.engine.calibrate import (
    Progress,
    cache_key,
    calibrate,
    is_much_faster_now,
    load_cached,
    store,
)
from airdraft.nodes.engine.golden import software_digest
from airdraft.nodes.engine.grammar import Piece
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import library, library_hash, load_model
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import EngineError, Model, Sequences, Tokenizer
from airdraft.nodes.engine.selftest import (
    PREFIX_LEN_OF_STATES,
    PREFIX_LENS,
    PREFIX_LENS_OF_KERNELS,
    SelfTest,
    run_self_test,
)
from airdraft.nodes.engine.snapshots import SnapshotModel
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.engine.translated import TranslatedModel
from airdraft.nodes.engine.vocab import LlamaTokenizer
from airdraft.policies.latency import CostTable, NodeCosts

logger = logging.getLogger(__name__)

# Without flash attention, which libllama refuses to use for this architecture, the sums of a token
# take in all cells, also those of others. Few rows show it: 29 of 6,245 of a small Grok.
_WITHOUT_FLASH_ATTENTION = ("grok",)
# The self-test and the calibration need two sequences.
_MEASURED_SEQUENCES = 2
TOY_COSTS = NodeCosts(CostTable((1, 32), (1e-4, 1e-3)), CostTable((32,), (1e-3,)))


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that a node can run. costs: What its passes take."""

    model: Model
    tokenizer: Tokenizer
    costs: NodeCosts


@dataclass(frozen=True, slots=True)
class OpenedModel(Opened):
    """The model of a file."""

    model: LlamaModel
    self_test: SelfTest


class _GuessesFailedError(EngineError):
    """A model with recurrent layers is not exact with guesses. It may be without."""


def open_toy(config: ToyConfig) -> Opened:
    """Open a toy model; the costs of its passes are very low, or follow from its pass_s."""
    costs = TOY_COSTS
    if slow_s := config.pass_s:
        costs = NodeCosts(
            CostTable((1, 32), (slow_s + 1e-4, slow_s + 1e-3)),
            CostTable((32, 256), (slow_s + 1e-3, slow_s + 8e-3)),
        )
    return Opened(ToyModel(config), ToyTokenizer(config.num_vocab), costs)


def open_model(
    config: LlamaConfig,
    cache: Path | None,
    progress: Progress | None = None,
    *,
    model_hash: str | None = None,
) -> OpenedModel:
    """Load a model, self-test it and calibrate it; both results are kept in `cache`.

    model_hash: The SHA-256 of the file, if it is known.

    If the self-test of profile exact fails with our kernels, ggml's own kernels are tried with the
    weights in the layout of the file, which is slow. If this fails too, the fastest form is opened
    and counts as not exact. Each of these is tried without guesses, too, if it is of a model with
    recurrent layers.
    """
    opened = _open_with_guesses(config, cache, progress, model_hash)
    if config.profile == "fast" or opened.self_test.exact:
        return opened
    failure, model_hash = opened.self_test.failure, opened.model.info.model_hash
    if config.repack:
        logger.info("self-test: %s; trying ggml's kernels with the file's own layout", failure)
        opened.model.close()
        plain = replace(config, repack=False)
        opened = _open_with_guesses(plain, cache, progress, model_hash)
        if opened.self_test.exact:
            return opened
        opened.model.close()
        opened = _open_with_guesses(config, cache, progress, model_hash)
    logger.warning("the model is not exact on this device: %s", failure)
    return opened


def _open_with_guesses(
    config: LlamaConfig, cache: Path | None, progress: Progress | None, model_hash: str | None
) -> OpenedModel:
    """Open a model with recurrent layers in the first way to take guesses back that is exact.

    The ways are snapshots, if they are asked for, and second states; the last resort is none.
    """
    try:
        return _open_once(config, cache, progress, model_hash)
    except _GuessesFailedError as error:
        has_another = config.num_snapshots > 0
        other = "second states" if has_another else "no guesses"
        logger.info("self-test: %s; trying %s", error, other)
        config = replace(config, num_snapshots=0, takes_back=has_another)
        return _open_with_guesses(config, cache, progress, model_hash)


def in_tokens_of(path: Path, model: LlamaModel) -> tuple[Sequences, Piece]:
    """Returns a draft model that reads and guesses the tokens of another model's file.

    Returns what gives the pieces of these tokens, too. If the tokens are the draft model's own, the
    result is the model itself. Raises ModelFileError.
    """
    # If the vocabulary is used, it is used as long as the process lives, and is never freed.
    pointer = load_model(path, gpu_layers=0, repack=False, vocab_only=True)
    vocabulary = LlamaTokenizer(pointer)
    vocab_hash = vocabulary.content_hash()
    if vocab_hash == model.info.vocab_hash:
        library().llama_model_free(pointer)
        return model, model.vocabulary.piece
    translated = TranslatedModel(model, model.vocabulary, vocabulary, vocab_hash)
    logger.info(
        "guesses are translated to tokens of %s: %d of these %d tokens are also tokens of %s",
        *(path.name, translated.dictionary.num_shared, vocabulary.num_vocab, model.info.model),
    )
    return translated, vocabulary.piece


def _open_once(
    config: LlamaConfig,
    cache: Path | None,
    progress: Progress | None,
    model_hash: str | None = None,
) -> OpenedModel:
    kind = SnapshotModel if config.num_snapshots else LlamaModel
    return _measured(kind(_roomy(config), model_hash=model_hash), config, cache, progress)


def _roomy(config: LlamaConfig) -> LlamaConfig:
    return replace(config, max_sequences=max(config.max_sequences, _MEASURED_SEQUENCES))


def open_split(
    config: LlamaConfig,
    make: Callable[[LlamaConfig], SplitModel],
    cache: Path,
    progress: Progress | None = None,
) -> OpenedModel:
    """Open the last stage of a split model; all its stages are self-tested and calibrated.

    make: Opens it. cache: Where the results of this chain of stages are kept; those of the whole
    model, which has the same numerics class, say nothing of it. Raises EngineError, also if it is
    not exact: nothing else can be tried.
    """
    try:
        opened = _measured(make(_roomy(config)), config, cache, progress)
    except _GuessesFailedError as error:
        logger.info("self-test: %s; trying no guesses", error)
        config = replace(config, takes_back=False)
        opened = _measured(make(_roomy(config)), config, cache, progress)
    if config.profile == "exact" and not opened.self_test.exact:
        opened.model.close()
        raise EngineError(f"the split model is not exact: {opened.self_test.failure}")
    return opened


def _measured(
    model: LlamaModel, config: LlamaConfig, cache: Path | None, progress: Progress | None
) -> OpenedModel:
    """Self-test a model and calibrate it, if the results are not in `cache`."""
    prefix_lens: tuple[int, ...] = PREFIX_LENS
    if model.has_kernels:
        prefix_lens = PREFIX_LENS_OF_KERNELS
    if not model.info.can_cut:
        prefix_lens = (*prefix_lens, PREFIX_LEN_OF_STATES)
    key = cache_key(model.info, config, library_hash(), prefix_lens)
    known = load_cached(cache, key) if cache is not None else None
    self_test, costs = known or (None, None)
    if self_test is None:
        try:
            self_test = _self_test(model, config.profile, prefix_lens, progress)
        except EngineError:
            model.close()
            raise
    if costs is None or is_much_faster_now(model, costs):
        costs = calibrate(model, progress=progress)
        if cache is not None:
            try:
                store(cache, key, self_test, costs)
            except OSError as error:
                logger.warning("the calibration cannot be kept in %s: %s", cache, error.strerror)
    # It is not kept with the results, because it depends on the packages of this process.
    software = software_digest()
    model.set_tested(exact=self_test.exact, digest=self_test.digest, software=software)
    model.info = replace(model.info, max_sequences=config.max_sequences)
    return OpenedModel(model, model.tokenizer, costs, self_test)


def _self_test(
    model: LlamaModel, profile: str, prefix_lens: tuple[int, ...], progress: Progress | None
) -> SelfTest:
    if progress is not None:
        progress("self-test", 0, None)
    if profile == "fast":
        return SelfTest(False, "profile fast does not promise equal bits")
    takes_back = model.info.can_take_back and not model.info.can_cut
    try:
        tested = run_self_test(model, prefix_lens=prefix_lens)
    except EngineError as error:
        if takes_back:
            raise _GuessesFailedError(str(error)) from error
        raise
    if not tested.exact and takes_back:
        raise _GuessesFailedError(tested.failure)
    if not tested.exact:
        return replace(tested, failure=_with_operation(model, tested.failure))
    if model.metadata("general.architecture") in _WITHOUT_FLASH_ATTENTION:
        failure = "its attention adds up the cells of other sequences, too"
        return replace(tested, exact=False, failure=failure)
    return tested


def _with_operation(model: LlamaModel, failure: str) -> str:
    """Returns the failure with the first operation that differs, if it can be found."""
    try:
        operation = model.first_difference()
    except EngineError as error:
        # The node serves in any case, as one that is not exact.
        logger.debug("the cause of %r was not found: %s", failure, error)
        return failure
    return f"{failure}: {operation}" if operation else failure
