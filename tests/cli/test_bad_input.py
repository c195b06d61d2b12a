"""Whatever a user gets wrong is one line that says what, and an exit code that is not 0."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands, error_line

# What is typed, with what {folder} holds; the exit code; a part of what is said.
CASES = [
    ("upp", 2, "No such command 'upp'."),
    ("apikeys add laptop --keys {folder}/ring", 78, "an API key laptop exists already"),
    ("apikeys add 'no name'", 78, "the name of an API key"),
    ("apikeys remove desk", 78, "no API key 'desk'"),
    ("doctor --config {folder}/target.toml", 2, "--config needs --role: target, draft"),
    ("gateway --listen 0.0.0.0:0", 78, "apikeys add"),
    ("gateway --config none.toml", 78, "not found"),
    ("gateway --connect tcp://10.0.0.1:7411", 78, "keys"),
    ("coordinator --listen tcp://0.0.0.0:7411", 78, "run `airdraft keys init`"),
    ("coordinator --config {folder}/coordinator.toml", 78, "unknown key lisen, did you mean lis"),
    ("target --config {folder}/target.toml", 78, "unknown key conect, did you mean connect?"),
    ("draft --connect tcp://10.0.0.1:7411", 78, "`airdraft join` on others"),
    ("generate x --connect tcp://h:1", 78, "tcp://h:1 is not loopback"),
    ("generate x --connect tcp://127.0.0.1:1", 69, "no coordinator answered at tcp://"),
    ("chat --connect tcp://127.0.0.1:1", 69, "no coordinator answered at tcp://127.0.0.1:1"),
    ("top --once --connect ipc://{folder}/nobody", 69, "no coordinator answered at ipc://"),
    ("top", 2, "standard output is not a terminal: give --once or --json"),
    ("top --once --json", 2, "--once and --json exclude each other: give one of them"),
    ("serve --listen tcp://*:7411 --no-http --model toy:1", 78, "need keys"),
    ("serve --config {folder}/threads.toml", 78, "engine.threads = True is not of type int"),
    ("serve --config {folder}/options.toml", 78, "unknown key model, did you mean engine.model?"),
    ("serve --http off", 2, "no --http any more: give --host and --port, or --no"),
    ("serve toy:1 --draft ngram", 78, "a name, a file, auto or none is accepted; with none there"),
    ("target --draft ngram", 78, "a name, a file, auto or none is accepted; with none there is st"),
    ("target --config {folder}/vocabulary.toml", 78, "unknown key engine.vocabulary"),
    ("draft --config {folder}/inside.toml", 78, "unknown key engine.draft"),
    ("target --vocabulary x.gguf", 2, "No such option '--vocabulary'"),
    ("draft --prefix-cache-mb 9", 2, "No such option '--prefix-cache-mb'"),
    ("draft --draft x.gguf", 2, "No such option '--draft'"),
    ("target --cells -9", 2, "-9 is not in the range 1<=x<=4194304"),
    ("stop", 1, "nothing runs in the background: `airdraft ps` lists what you run"),
    ("stop nobody", 1, "no 'nobody' runs: `airdraft ps` lists what you run on this machine"),
    ("up --max-waiting 9", 2, "no --max-waiting any more: set AIRDRAFT_LIMITS__MAX_WAITING"),
    ("completion bash", 2, "no completion any more: click prints the script"),
    ("models join a b", 2, "no models join any more: `airdraft models pull hf:OWNER/REPO/FIRST"),
    ("serve toy:1 -m toy:0.5", 2, "toy:1 and toy:0.5: give one model"),
    ("target --across ,", 78, "engine.across = ',': 1 to 16 different names are accepted"),
    ("target --across a,b,a", 78, "1 to 16 different names are accepted"),
    ("target --across tcp://10.9.9.9:1", 78, "tcp://10.9.9.9:1"),
    ("stage --part 1/2", 2, "name the model of which this is a part"),
    ("stage --listen tcp://0.0.0.0:1", 78, "tcp://0.0.0.0:1"),
    ("stage a -m b", 2, "a and b: give one model"),
    ("serve --host nowhere.invalid toy:1 -md none", 78, "run `airdraft apikeys add NAME`"),
    ("serve nothing", 2, "unknown model 'nothing'"),
    ("install-units --root {folder}/text.gguf", 1, "cannot be written"),
    ("keys list", 78, "has no coordinator's key"),
    ("keys rotate", 78, "needs no key"),
    ("keys rotate-coordinator --finish", 2, "airdraft has no keys rotate-coordinator any more"),
    ("keys init --keys {folder}/ring", 78, "already has a coordinator's key"),
    ("keys revoke nobody --keys {folder}/ring", 78, "no authorized node has the key or name"),
    ("keys add short --name a --role draft --keys {folder}/ring", 78, "40 characters of Z85"),
    ("keys invite --role draft --endpoint 10.0.0.1 --keys {folder}/ring", 78, "expected tcp://"),
    ("keys invite --role draft --endpoint tcp://0.0.0.0:7 --keys {folder}/ring", 2, "the address"),
    ("join -", 78, "this is not an invitation"),
    ("join airdraft1-x", 78, "this is not an invitation"),
    ("run --model {folder}/truncated.gguf hi", 2, "truncated.gguf"),
    ("run --model {folder}/text.gguf hi", 2, "text.gguf"),
    ("run --model toy:1 --draft {folder}/text.gguf hi", 2, "text.gguf"),
    ("run --model replay:{folder}/none --draft none hi", 2, "replay:"),
    ("run {toys} hi --cells 256 --max-tokens 5000", 1, "overflow: 2 prompt tokens"),
    ("run {toys} hi --cells 256 --max-tokens 240", 1, "16 guesses exceed the 256 cells"),
    # It has said nothing by then.
    ("run --model toy:1@500ms --draft toy:0.8 hi --timeout 0.01", 1, "within its 0.01 s"),
    (
        "run --prompt hi",
        2,
        'the prompt is an argument: `airdraft run "Why is the sky blue?"`, or -',
    ),
    ("generate", 2, "Missing argument 'PROMPT|-'"),
    ("run {toys} ''", 2, "the prompt is empty"),
    ("run {toys} caf\udce9", 2, "the prompt is not UTF-8 text"),
    ("run {toys} hi --priority 11", 2, "11 is not in the range 1<=x<=10"),
    ("run {toys} hi --gamma x", 2, "'x' is neither a number nor auto"),
    ("run {toys} hi --temperature nan", 2, "'--temperature': 'nan' is not a number"),
    ("trace", 2, "nothing to write: give --output"),
    ("trace --output {folder}/x --raw {folder}/./x", 2, "give two files"),
    ("trace --seconds nan --output {folder}/x.json", 2, "'--seconds': 'nan' is not a number"),
    ("trace --output {folder}/none/x.json", 2, "none/x.json: there is no directory"),
    ("trace replan x.jsonl --policy ad", 2, "no trace replan any more: `airdraft plan SCENARIO"),
]
EXPIRY = "keys invite --role draft --endpoint tcp://10.0.0.1:7 --keys {folder}/ring --expires="
TIMES = ("0s", "99d", "½h", "9" * 5000 + "d")
CASES += [(EXPIRY + time, 2, "--expires") for time in TIMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are none of their kind, and the keys of a coordinator and of an API."""
    made = tmp_path_factory.mktemp("bad")
    (made / "text.gguf").write_text("this is not a model\n" * 100)
    # Magic, version 3, 200 tensors and 20 keys announced; then nothing.
    counts = ((3, 4), (200, 8), (20, 8))
    header = b"GGUF" + b"".join(number.to_bytes(size, "little") for number, size in counts)
    (made / "truncated.gguf").write_bytes(header)
    (made / "coordinator.toml").write_text('lisen = "tcp://127.0.0.1:1"\n')
    (made / "target.toml").write_text('conect = "tcp://127.0.0.1:1"\n')
    (made / "threads.toml").write_text("[engine]\nthreads = true\n")
    (made / "options.toml").write_text('model = "toy:1"\n')
    (made / "vocabulary.toml").write_text('[engine]\nvocabulary = "x.gguf"\n')
    (made / "inside.toml").write_text('[engine]\ndraft = "x.gguf"\n')
    return made


@pytest.fixture(scope="module")
def commands(folder: Path) -> Iterator[Commands]:
    made = Commands(folder)
    ring = ("--keys", str(folder / "ring"))
    made.printed("keys", "init", *ring)
    made.printed("apikeys", "add", "laptop", *ring)
    yield made
    assert made.alive() == {}


@pytest.mark.parametrize(("typed", "code", "said"), CASES, ids=[case[0] for case in CASES])
def test_it_is_one_line(commands: Commands, folder: Path, typed: str, code: int, said: str) -> None:
    typed = typed.format(folder=folder, toys="--model toy:1 --draft toy:0.8")
    done = commands.run(*shlex.split(typed), AIRDRAFT_JOIN_TIMEOUT_S="1")
    # A mesh on loopback without keys has said before who may join.
    done.stderr = "".join(
        line for line in done.stderr.splitlines(keepends=True) if " WARNING " not in line
    )
    assert said in error_line(done)
    assert done.returncode == code


@pytest.mark.parametrize("typed", ["", "keys"])
def test_a_group_alone_shows_its_commands_as_its_help_does(commands: Commands, typed: str) -> None:
    done = commands.run(*typed.split())
    assert done.returncode == 2
    assert done.stderr == commands.run(*typed.split(), "--help").stdout
