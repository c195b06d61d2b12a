"""A device is told from another whose verdict must not pass for its own."""

import pytest

from nodes.engine.cores import describe_device, this_device

ARM_V8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
PI_CORE = f"""processor\t: {{n}}
BogoMIPS\t: 108.00
Features\t: {ARM_V8_2}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""
PI_5 = (
    "\n".join(PI_CORE.format(n=n) for n in range(4))
    + """
Revision\t: c04170
Serial\t\t: 0123456789abcdef
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
)
PI_BOARD = "Raspberry Pi 5 Model B Rev 1.0\0"
ORIN_CORE = f"""processor\t: {{n}}
model name\t: ARMv8 Processor rev 1 (v8l)
BogoMIPS\t: 62.50
Features\t: {ARM_V8_2} uscat ilrcpc flagm paca pacg
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1
"""
ORIN = "\n".join(ORIN_CORE.format(n=n) for n in range(6)) + "\n"
ORIN_BOARD = "NVIDIA Jetson Orin Nano Developer Kit\0"
X86_CORE = """processor\t: {n}
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
stepping\t: 1
microcode\t: 0x1000065
cpu MHz\t\t: 2445.{n}32
fpu\t\t: yes
flags\t\t: fpu vme de sse sse2 avx f16c avx2 fma vaes
bugs\t\t: sysret_ss_attrs null_seg
bogomips\t: 4890.86
"""
X86 = "\n".join(X86_CORE.format(n=n) for n in range(2)) + "\n"
DEVICES = {"pi": (PI_5, PI_BOARD, 4), "orin": (ORIN, ORIN_BOARD, 6), "x86": (X86, "", 2)}


def test_a_pi_is_told_by_its_board_and_the_part_of_its_cores():
    line = describe_device(*DEVICES["pi"])
    assert line.startswith("Raspberry Pi 5 Model B Rev 1.0; 4 x CPU implementer 0x41, ")
    assert "CPU part 0xd0b" in line
    assert line.endswith("; 4 CPUs")


def test_an_x86_is_told_by_its_model_name():
    assert "model name AMD EPYC" in describe_device(*DEVICES["x86"])


def test_devices_differ():
    assert len({describe_device(*device) for device in DEVICES.values()}) == len(DEVICES)


@pytest.mark.parametrize(
    ("device", "old", "new"),
    [
        ("pi", "0xd0b", "0xd08"),
        ("pi", "CPU revision\t: 1", "CPU revision\t: 2"),
        ("pi", "CPU variant\t: 0x4", "CPU variant\t: 0x1"),
        ("pi", " asimddp", ""),
        ("orin", "0x41", "0x4e"),
        ("x86", " avx2", " avx2 avx512f"),
        ("x86", "stepping\t: 1", "stepping\t: 2"),
    ],
)
def test_another_cpu_is_another_device(device, old, new):
    cpuinfo, board, num_cpus = DEVICES[device]
    assert old in cpuinfo
    other = describe_device(cpuinfo.replace(old, new), board, num_cpus)
    assert other != describe_device(cpuinfo, board, num_cpus)


def test_another_board_or_number_of_cpus_is_another_device():
    four = describe_device(PI_5, PI_BOARD, 4)
    assert describe_device(PI_5, "Raspberry Pi Compute Module 5\0", 4) != four
    assert describe_device(PI_5, PI_BOARD, 2) != four


@pytest.mark.parametrize(
    ("device", "old", "new"),
    [
        ("pi", "0123456789abcdef", "fedcba9876543210"),
        ("x86", "2445.", "1500."),
        ("x86", "fpu vme de", "de vme fpu"),
        ("orin", "62.50", "31.25"),
    ],
)
def test_what_changes_while_running_or_is_of_one_piece_alone_makes_no_other_device(
    device, old, new
):
    cpuinfo, board, num_cpus = DEVICES[device]
    assert old in cpuinfo
    same = describe_device(cpuinfo.replace(old, new), board, num_cpus)
    assert same == describe_device(cpuinfo, board, num_cpus)


def test_cores_of_two_kinds_are_both_told():
    little = PI_CORE.format(n=4).replace("0xd0b", "0xd05")
    line = describe_device(PI_CORE.format(n=0) + "\n" + little, "", 2)
    assert "1 x " in line
    assert "0xd0b" in line
    assert "0xd05" in line


def test_a_machine_that_shows_nothing_is_its_number_of_cpus():
    assert describe_device("", "", 3) == "3 CPUs"


def test_this_machine_is_described_the_same_twice():
    assert this_device() == this_device() != ""
