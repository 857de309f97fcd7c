"""What this machine is said to be: its hardware and libraries, never its name, and only the GPUs it may use."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from harness.machine import host as hosts
from tests.made import GIB, made_host


class _Unavailable(Exception):
    pass


@pytest.fixture
def driver(monkeypatch):
    """Return a function that makes this machine one with an NVIDIA driver and these GPUs."""

    def install(*names: str, absent: bool = False) -> SimpleNamespace:
        calls = SimpleNamespace(opened=0, closed=0)
        fake = ModuleType("pynvml")
        fake.NVMLError = _Unavailable

        def init() -> None:
            if absent:
                raise _Unavailable("NVML Shared Library Not Found")
            calls.opened += 1

        def close() -> None:
            calls.closed += 1

        fake.nvmlInit = init
        fake.nvmlShutdown = close
        fake.nvmlDeviceGetCount = lambda: len(names)
        fake.nvmlDeviceGetHandleByIndex = lambda index: index
        # Older versions of the binding return bytes.
        fake.nvmlDeviceGetName = lambda index: names[index].encode() if index % 2 else names[index]
        fake.nvmlDeviceGetUUID = lambda index: f"GPU-{index}932f937-d72c-4106-c12f-20bd9faed9f6"
        fake.nvmlDeviceGetMemoryInfo = lambda index: SimpleNamespace(total=(index + 1) * GIB)
        fake.nvmlSystemGetDriverVersion = lambda: b"570.86.15"
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return calls

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


def test_the_name_is_of_hardware_and_fit_for_a_folder(driver):
    driver()
    name = hosts.probe().name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert made_host(cores=2, cpu="Intel(R) Xeon(R) CPU @ 2.20GHz").name == "2-core-intel-xeon"
    assert made_host(cores=64, cpu="AMD EPYC 7763 64-Core Processor").name == "64-core-amd-epyc-7763-64-core"
    assert made_host(gpus=4).name == "4x-nvidia-rtx-a6000"


def test_nothing_of_the_host_is_its_name(driver, monkeypatch):
    """Results are published under it."""
    named = "planted-host-name"
    uname = platform.uname()._replace(node=named)
    monkeypatch.setattr(socket, "gethostname", lambda: named)
    monkeypatch.setattr(socket, "getfqdn", lambda *_: named)
    monkeypatch.setattr(platform, "node", lambda: named)
    monkeypatch.setattr(platform, "uname", lambda: uname)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", named, "6", "1", "x86_64")))
    monkeypatch.setenv("HOSTNAME", named)
    for gpus in ((), ("NVIDIA RTX A6000",)):
        driver(*gpus)
        found = hosts.probe()
        assert named not in f"{found!r} {found.name} {found.describe()}"


def test_without_a_driver_a_gpu_is_a_core(driver):
    driver(absent=True)
    found = hosts.probe()
    assert (found.gpus, found.driver, found.device_kind) == ((), None, "cpu")
    assert found.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert found.devices == len(found.cores)
    assert found.describe().startswith("no CUDA GPU: a GPU is one gloo rank on a core of ")


def test_gpus_are_told_as_the_driver_names_them_and_the_driver_is_let_go(driver):
    calls = driver("NVIDIA H200", "NVIDIA H200")
    found = hosts.probe()
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA H200"] * 2
    assert [gpu.memory_bytes for gpu in found.gpus] == [GIB, 2 * GIB]
    assert (found.driver, found.device_kind, found.devices, found.most_ranks) == ("570.86.15", "cuda", 2, 2)
    assert calls.opened == calls.closed == 1


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("0,2", 2),
        ("2, 1, 0", 3),
        ("GPU-1932f937-d72c", 1),
        ("MIG-6ca4", 1),
        ("NoDevFiles", 0),
    ],
)
def test_only_the_gpus_that_cuda_may_see_are_counted(driver, monkeypatch, visible, count):
    driver("NVIDIA H200", "NVIDIA H200", "NVIDIA H200")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(hosts.probe().gpus) == count


@pytest.mark.parametrize(
    ("visible", "name"),
    [("1", "NVIDIA A100"), ("1,0", "NVIDIA A100"), ("0", "NVIDIA H200"), ("GPU-1932f937-d72c", "NVIDIA A100")],
)
def test_of_unlike_gpus_the_one_that_cuda_sees_first_gives_the_name(driver, monkeypatch, visible, name):
    driver("NVIDIA H200", "NVIDIA A100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hosts.probe().gpus[0].name == name


@pytest.mark.parametrize(("visible", "count"), [("7", 0), ("0,7,1", 1)])
def test_an_index_that_no_gpu_has_hides_it_and_all_behind_it(driver, monkeypatch, visible, count):
    """So do CUDA and torch's own counting (`torch.cuda._parse_visible_devices`)."""
    driver("NVIDIA H200", "NVIDIA H200")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(hosts.probe().gpus) == count


def test_four_ranks_run_on_any_cpu_and_more_on_a_larger_one_but_never_more_than_gpus():
    assert made_host(cores=1).most_ranks == 4
    assert made_host(cores=2).most_ranks == 4
    assert made_host(cores=16).most_ranks == 16
    assert made_host(cores=16, gpus=1).most_ranks == 1


def test_versions_are_of_what_is_installed_and_absent_ones_are_left_out(driver, monkeypatch):
    driver(absent=True)
    monkeypatch.setattr(hosts, "_VERSIONED", ("pytest", "no-such-distribution"))
    found = hosts.probe().versions
    assert found == {"python": platform.python_version(), "pytest": pytest.__version__}


def test_a_person_is_told_what_the_machine_is():
    assert made_host(gpus=2).describe() == "2 x NVIDIA RTX A6000 (48 GiB), torch 2.15.0, driver 570.1"
    assert made_host(cores=2, versions={}).describe() == (
        "no CUDA GPU: a GPU is one gloo rank on a core of Made(R) CPU @ 2.00GHz, 2 cores, 8 GiB, torch not installed"
    )


def test_looking_imports_no_torch():
    """Ranks are forked later, which a process that touched CUDA cannot be."""
    code = "import sys; from harness.machine.host import probe; probe(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


X86 = """processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Processor @ 2.70GHz
stepping\t: {stepping}
microcode\t: 0x1
cpu MHz\t\t: {mhz}
cache size\t: 107520 KB
flags\t\t: fpu vme {flag}

processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU architecture: 8\nCPU part\t: 0xd40\nCPU revision\t: 1\n"


@pytest.fixture
def cpuinfo(driver, monkeypatch, tmp_path):
    """Return a function that probes a machine whose processor tells this of itself."""

    def probe(text: str) -> hosts.Host:
        driver(absent=True)
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(hosts, "_CPUINFO", tmp_path / "cpuinfo")
        return hosts.probe()

    return probe


def test_the_processor_is_told_by_what_decides_its_speed(cpuinfo):
    found = cpuinfo(X86.format(stepping=8, mhz="2700.000", flag="hypervisor"))
    assert found.cpu == "Intel(R) Xeon(R) Processor @ 2.70GHz"
    assert found.processor == {
        "family": "6",
        "model": "143",
        "stepping": "8",
        "cache": "107520 KB",
        "hypervisor": "yes",
    }
    assert cpuinfo(X86.format(stepping=8, mhz="1", flag="")).processor["hypervisor"] == "no"
    assert cpuinfo(ARM).processor == {"family": "8", "model": "0xd40", "stepping": "1"}
    assert cpuinfo("").processor == {}


def test_the_digest_is_the_hardwares_and_not_the_moments(cpuinfo):
    first = cpuinfo(X86.format(stepping=8, mhz="2700.000", flag="hypervisor"))
    assert cpuinfo(X86.format(stepping=8, mhz="800.000", flag="hypervisor")).hardware_digest == first.hardware_digest
    assert re.fullmatch("[0-9a-f]{16}", first.hardware_digest)
    same_name = [
        cpuinfo(X86.format(stepping=9, mhz="2700.000", flag="hypervisor")),
        cpuinfo(X86.format(stepping=8, mhz="2700.000", flag="ht")),
    ]
    assert {one.name for one in same_name} == {first.name}
    assert len({one.hardware_digest for one in (first, *same_name)}) == 3


@pytest.mark.parametrize(
    "over",
    [
        {"cpu": "Made(R) CPU @ 3.00GHz"},
        {"cores": (0, 1, 2)},
        {"memory_bytes": 16 * GIB},
        {"processor": {"cache": "1024 KB"}},
        {"gpus": made_host(gpus=1).gpus},
    ],
)
def test_each_fact_about_the_hardware_changes_the_digest(over):
    assert replace(made_host(), **over).hardware_digest != made_host().hardware_digest


def test_software_changes_no_hardware_and_is_told_apart():
    one, two = made_host(gpus=1), made_host(gpus=1, driver="575.2", versions={"torch": "2.16.0"})
    assert one.hardware_digest == two.hardware_digest
    assert one.hardware["gpus"] == "NVIDIA RTX A6000 of 48 GiB"
    assert one.software == {"python": "3.11.7", "torch": "2.15.0", "driver": "570"}
    assert two.software == {"torch": "2.16.0", "driver": "575"}
    assert "driver" not in made_host().software


@pytest.mark.parametrize(
    ("usable_gib", "installed"),
    [
        (0.3, 1),
        (7.6, 8),
        (8, 8),
        (15.4, 16),
        (23.54, 24),
        (23.4, 24),
        (62.7, 64),
        (251.6, 256),
        (503.5, 512),
        (1007, 1024),
    ],
)
def test_memory_is_what_is_installed_whatever_the_kernel_keeps(usable_gib, installed):
    assert made_host(memory_bytes=int(usable_gib * GIB)).hardware["memory"] == f"{installed} GiB"
