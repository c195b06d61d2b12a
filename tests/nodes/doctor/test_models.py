import hashlib
from dataclasses import replace
from pathlib import Path

from airdraft.nodes.catalog import Catalog
from airdraft.nodes.config.settings import EngineSettings
from airdraft.nodes.doctor import models
from airdraft.nodes.doctor.finding import Level
from tests.nodes.catalog.fakes import gguf_bytes

MEMINFO = "MemTotal:  1000000 kB\nMemFree: 1 kB\nMemAvailable:   500000 kB\n"
MB = 1_000_000


def test_memory_is_judged_by_what_is_free_and_what_there_is() -> None:
    assert models.check_memory(100 * MB, MEMINFO).level is Level.OK
    assert models.check_memory(400 * MB, MEMINFO).level is Level.WARN
    assert models.check_memory(800 * MB, MEMINFO).level is Level.FAIL


def test_a_cache_directory_is_made_where_one_can_be(tmp_path: Path) -> None:
    assert models.check_cache(tmp_path / "a" / "b").level in (Level.OK, Level.WARN)
    (tmp_path / "file").write_text("x")
    finding = models.check_cache(tmp_path / "file" / "below")
    assert finding.level is Level.FAIL
    assert "AIRDRAFT_CACHE" in finding.mend


def test_a_model_file_and_its_hash_are_checked(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = EngineSettings(model=str(path))
    finding, found = models.check_model(wanted, catalog)
    assert (finding.level, found) == (Level.OK, path)
    right = replace(wanted, model_sha256=sha256.upper())
    assert models.check_model(right, catalog)[0].what.endswith("hash is right")
    wrong = models.check_model(replace(wanted, model_sha256="0" * 64), catalog)[0]
    assert (wrong.level, "engine.model_sha256" in wrong.mend) == (Level.FAIL, True)
    missing = models.check_model(EngineSettings(model=str(tmp_path / "no.gguf")), catalog)
    assert (missing[0].level, missing[1]) == (Level.FAIL, None)
    toy = models.check_model(EngineSettings(model="toy:1"), catalog)
    assert (toy[0].level, toy[1]) == (Level.NOTE, None)
