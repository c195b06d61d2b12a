"""The wheels that install without a compiler: how they are packed, tagged and changed."""

import json
import re
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.packaged import wheels

__all__ = ["wheels"]

ROOT = Path(__file__).parents[1]
FILES = {
    "thing/__init__.py": b"value = 7\n",
    "thing-1.0.dist-info/METADATA": b"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n\nText.\n",
}


def packed(wheels, folder, files=FILES):
    wheels.DIST = folder
    return wheels.pack(files, "thing-1.0.dist-info", {"zig": b"Free.\n", "abc": b"Also free.\n"})


def test_pip_installs_a_packed_wheel_with_its_licences(wheels, tmp_path, monkeypatch):
    wheel = packed(wheels, tmp_path / "dist")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", f"--target={tmp_path}/site", wheel], check=True
    )
    (info,) = (tmp_path / "site").glob("*.dist-info")
    assert (info / "licenses" / "zig.txt").read_bytes() == b"Free.\n"
    metadata = BytesParser().parsebytes((info / "METADATA").read_bytes())
    assert metadata.get_all("License-File") == ["abc.txt", "zig.txt"]
    assert metadata.get_payload() == "Text.\n"
    assert "Root-Is-Purelib: false" in (info / "WHEEL").read_text()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    import thing

    assert thing.value == 7


def test_the_same_files_in_another_order_give_the_same_bytes(wheels, tmp_path):
    one = packed(wheels, tmp_path / "one")
    other = packed(wheels, tmp_path / "other", dict(reversed(FILES.items())))
    assert one.read_bytes() == other.read_bytes()


def test_record_has_the_hash_and_size_of_each_file_but_itself(wheels, tmp_path):
    with zipfile.ZipFile(packed(wheels, tmp_path)) as archive:
        lines = archive.read("thing-1.0.dist-info/RECORD").decode().splitlines()
        assert {line.split(",")[0] for line in lines} == set(archive.namelist())
    # printf 'value = 7\n' | openssl dgst -sha256 -binary | basenc --base64url
    hashed = "sha256=ZsURpaXn-ErlVy8iamO0BmoU3m4ZZX6i83OanlzeeCY"
    assert f"thing/__init__.py,{hashed},10" in lines
    assert "thing-1.0.dist-info/RECORD,," in lines


@pytest.mark.parametrize("tag", ["manylinux_2_34_x86_64", "linux_x86_64"])
def test_a_wheel_that_needs_a_newer_system_is_refused(wheels, tag):
    with pytest.raises(wheels.WheelError, match="which is not py3-none-manylinux_2_28_x86_64"):
        wheels.check_tag(json.dumps({"overall_tag": tag}))


@pytest.mark.parametrize("tag", ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64"])
def test_a_wheel_that_runs_on_the_systems_of_its_tag_is_accepted(wheels, tag):
    wheels.check_tag(json.dumps({"overall_tag": tag}))


def test_the_variants_are_loaded_before_anything_else_of_the_package(wheels):
    changed = wheels.loads_variants("from .llama_cpp import *\nfrom .llama import *\n")
    compile(changed, "__init__.py", "exec")
    order = ["from .llama_cpp import *", "load_all_from_path", "from .llama import *"]
    assert sorted(order, key=changed.index) == order
    with pytest.raises(wheels.WheelError, match="no line"):
        wheels.loads_variants("from .elsewhere import *\n")


def test_the_version_and_hashes_of_one_package_are_taken_from_the_lock(wheels):
    text = (ROOT / "requirements" / "run.txt").read_text()
    lines = wheels.locked(text, "llama-cpp-python")
    assert re.fullmatch(r"llama-cpp-python==\S+ \\\n( +--hash=.*\n)+( +#.*\n)*", lines)
    with pytest.raises(wheels.WheelError, match="no version of numpi"):
        wheels.locked(text, "numpi")
