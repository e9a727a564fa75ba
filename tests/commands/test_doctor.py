"""`mvrec doctor`, on this machine as it is and on machines with something wrong."""

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
import warm
from warm import run_ranks

from mvrec.commands import doctor
from mvrec.commands.doctor import main
from mvrec.doctor import machine, media, packages
from mvrec.doctor.checks import Check, lines
from mvrec.doctor.machine import cpu_quota, machine_checks
from mvrec.doctor.packages import extra_checks, installed_version, lightning_checks, package_checks
from mvrec.errors import UserError, install_hint

CALL = "import sys; from mvrec.commands.doctor import main; main(sys.argv[1:])"  # in a process of its own
ALONE = {
    key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TORCHELASTIC", "RANK", "WORLD"))
}


def python(code, folder):
    """Code in a process of its own, before whose packages a folder's are found."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {**ALONE, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)


def fake_package(folder, name, version, *, module=None):
    """A package of another version, found before the real one."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if module is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(module)


def named(checks, name):
    (check,) = [check for check in checks if check.name == name]
    return check


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_checks():
    return doctor.all_checks()


def test_this_machine_is_fine(all_checks, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "all_checks", lambda: all_checks)
    main([])
    out = capsys.readouterr().out
    for group in ("packages", "extras", "decoders", "machine", "devices"):
        assert f"\n{group}\n" in out
    assert "ok       h264 by pyav" in out
    assert "torch " in out
    assert "broken  " not in out


def test_json_says_the_same_and_broken_is_exit_code_1(monkeypatch, capsys):
    checks = [
        Check("packages", "torch", "ok", "2"),
        Check("decoders", "h264 by pyav", "broken", "crashed", "do <this>"),
    ]
    monkeypatch.setattr(doctor, "all_checks", lambda: checks)
    with pytest.raises(SystemExit) as left:
        main(["--json"])
    assert left.value.code == 1
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is False
    assert content["checks"][1] == {
        "group": "decoders",
        "name": "h264 by pyav",
        "status": "broken",
        "text": "crashed",
        "fix": "do <this>",
    }
    with pytest.raises(SystemExit):
        main([])
    assert "fix: do <this>" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "all_checks", lambda: checks[:1])
    main(["--json"])
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_lines_stand_below_their_group():
    found = lines(
        [Check("a", "x", "ok", "1"), Check("b", "yy", "note", "2", "mend it"), Check("a", "z", "warning", "3")]
    )
    assert found == [
        "a",
        "  ok       x   1",
        "  warning  z   3",
        "b",
        "  note     yy  2",
        "               fix: mend it",
    ]


# -- packages ----------------------------------------------------------------------------------------------------------


def test_a_malicious_release_is_named_and_never_imported(tmp_path):
    trap = tmp_path / "it was imported"
    fake_package(tmp_path / "site", "lightning", "2.6.2", module=f"open({str(trap)!r}, 'w')\n")
    result = python(CALL, tmp_path / "site")
    assert result.returncode == 1, result.stderr
    assert "2.6.2 is a malicious release" in result.stdout
    assert "lightning>=2.6.6,<2.7" in result.stdout
    assert "change every password" in result.stdout
    assert not trap.exists()
    assert "cores" in result.stdout  # what needs no package is still looked at


def test_nothing_is_loaded_beside_a_malicious_release(monkeypatch):
    monkeypatch.setattr(packages, "lightning_checks", lambda: lightning_checks({"lightning": "2.6.3"}.get))
    monkeypatch.setattr(packages, "importlib", SimpleNamespace(import_module=lambda name: pytest.fail(name)))
    checks = doctor.all_checks()
    assert {check.group for check in checks} == {"packages", "extras", "machine"}
    assert checks[0].status == "broken"


@pytest.mark.parametrize(
    ("versions", "part"),
    [
        ({"lightning": "2.6.3"}, "malicious"),
        ({"pytorch-lightning": "2.6.2"}, "malicious"),
        ({"lightning": "2.6.5"}, "runs code from checkpoints"),
        ({"lightning": "2.5.0.post0"}, "runs code from checkpoints"),
        ({"lightning": "2.6.6", "pytorch-lightning": "2.6.7"}, None),
        ({}, None),
    ],
)
def test_releases_of_lightning(versions, part):
    found = lightning_checks(versions.get)
    assert [part in check.text for check in found] == ([True] if part else [])
    assert all(check.status == "broken" for check in found)


def pretended(**versions):
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    return lambda name: names[name] if name in names else installed_version(name)


def test_packages_that_are_missing_old_or_do_not_fit():
    checks = package_checks(pretended(av=None, torch="2.0.1+cu118", safetensors="0.1"), load=False)
    assert named(checks, "av").text == "not installed"
    assert named(checks, "av").fix == "pip install 'av>=17.1'"
    assert named(checks, "safetensors").status == "broken"
    assert re.fullmatch(r"2\.0\.1\+cu118, mvrec needs .*>=2\.11.*", named(checks, "torch").text)
    pair = named(checks, "torchvision and torch")
    assert pair.status == "broken"
    assert "here is 2.0.1+cu118" in pair.text
    assert pair.fix == "pip install --upgrade torchvision torch"


def test_a_build_is_its_release():
    torch = installed_version("torch").partition("+")[0]
    checks = package_checks(pretended(torch=f"{torch}+cu128"), load=False)
    assert [check for check in checks if check.status == "broken"] == []


def test_a_package_that_does_not_load(tmp_path):
    version = installed_version("safetensors")
    fake_package(tmp_path, "safetensors", version, module="raise OSError('libx.so: cannot open shared object file')\n")
    code = (
        "import mvrec.doctor.packages as p\n"
        "print(p._package(p.Requirement('safetensors'), p.installed_version, load=True))"
    )
    result = python(code, tmp_path)
    assert "status='broken'" in result.stdout
    assert "libx.so: cannot open shared object file" in result.stdout
    assert "pip install --force-reinstall" in result.stdout


def test_extras_are_notes():
    checks = extra_checks(pretended(timm=None, matplotlib="3.1"))
    assert named(checks, "timm").status == "note"
    assert named(checks, "timm").fix == install_hint("timm")
    assert named(checks, "plot").status == "warning"
    assert {"test", "dev"}.isdisjoint(check.name for check in checks)


def crash():
    ctypes.string_at(0)


# -- decoders ----------------------------------------------------------------------------------------------------------


def test_decoders_are_really_tried(all_checks):
    checks = [check for check in all_checks if check.group == "decoders"]
    for codec in ("h264", "mpeg4"):
        assert named(checks, f"{codec} by pyav").status == "ok"
    for codec in ("hevc", "vp9", "av1"):  # not every PyAV has the encoders
        assert {check.status for check in checks if check.name in (codec, f"{codec} by pyav")} <= {"ok", "note"}
    assert named(checks, "JPEG and PNG").status == "ok"


def only(codec, monkeypatch):
    monkeypatch.setattr(media, "ENCODERS", {codec: media.ENCODERS[codec]})


def test_a_decoder_that_gives_wrong_frames(monkeypatch):
    only("h264", monkeypatch)
    monkeypatch.setattr(media, "read_levels", lambda path, decoder: [30, *media.LEVELS[:-1]])
    check = named(media.media_checks(), "h264 by pyav")
    assert check.status == "broken"
    assert "gives the wrong frames" in check.text
    assert check.fix == "pip install --force-reinstall av"


def test_a_decoder_that_crashes(monkeypatch):
    only("h264", monkeypatch)
    monkeypatch.setattr(
        media, "read_levels", lambda path, decoder: crash() if decoder == "decord" else list(media.LEVELS)
    )
    checks = media.media_checks()
    assert named(checks, "h264 by pyav").status == "ok"
    if installed_version("decord"):
        assert named(checks, "h264 by decord").status == "warning"  # nothing needs it
        assert "SIGSEGV" in named(checks, "h264 by decord").text


def test_a_clip_that_is_cut_short(tmp_path):
    path = tmp_path / "x.mp4"
    assert media.write_clip(path, "h264") == "libx264"
    assert media.read_levels(path, "pyav") == pytest.approx(list(media.LEVELS), abs=3)
    path.write_bytes(path.read_bytes()[:300])
    assert isinstance(media.read_levels(path, "pyav"), str)


def test_a_codec_without_encoder(monkeypatch):
    monkeypatch.setattr(media, "ENCODERS", {"h266": ("libvvenc-that-is-not-there",)})
    assert named(media.media_checks(), "h266").status == "note"


# -- the machine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_share_of_cores_that_a_container_may_use(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert cpu_quota(tmp_path) == quota
    if quota == 0.5:
        check = named(machine_checks(cgroup=tmp_path, environ={}), "cores")
        assert check.status == "warning"
        assert "--data.num_workers 1 " in check.fix


def test_limits_of_memory_and_slurm(tmp_path):
    (tmp_path / "memory.max").write_text(f"{2**31}\n")
    memory = named(machine_checks(cgroup=tmp_path, environ={}), "memory")
    assert memory.status == "warning"
    assert memory.text.startswith("2.0 GiB of ")
    cores = named(machine_checks(cgroup=tmp_path, environ={"SLURM_CPUS_PER_TASK": "999", "SLURM_JOB_ID": "1"}), "cores")
    assert cores.status == "warning"
    assert "--cpus-per-task=999" in cores.fix


@pytest.mark.parametrize(("mebibytes", "status"), [(8, "broken"), (64, "warning"), (8000, "ok")])
def test_shared_memory_against_what_workers_need(tmp_path, monkeypatch, mebibytes, status):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(0, 0, mebibytes * 2**20))
    environ = {"SLURM_CPUS_PER_TASK": "8"}
    monkeypatch.delattr(os, "memfd_create", raising=False)
    check = named(machine_checks(cgroup=tmp_path, shm=tmp_path, environ=environ), "shared memory")
    assert check.status == status
    if status != "ok":
        assert "8 loader workers with steps of 8 clips need 294" in check.text
        assert f"--data.num_workers {mebibytes // 36}" in check.fix
        assert "--ipc=host" in check.fix


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory without a file")
@pytest.mark.parametrize(("kibibytes", "status"), [(128, "broken"), (256, "ok")])
def test_batches_take_no_shared_memory_where_there_is_memory_without_a_file(tmp_path, monkeypatch, kibibytes, status):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(0, 0, kibibytes * 2**10))
    environ = {"SLURM_CPUS_PER_TASK": "8"}
    check = named(machine_checks(cgroup=tmp_path, shm=tmp_path, environ=environ), "shared memory")
    assert check.status == status
    assert ("--data.num_workers 0" in check.fix) == (status == "broken")


def test_no_shared_memory(tmp_path):
    assert named(machine_checks(shm=tmp_path / "nowhere"), "shared memory").status == "broken"


def test_few_open_files():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        check = named(machine_checks(), "open files")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert check.status == "warning"
    assert check.fix.startswith("ulimit -n ")
    assert named(machine_checks(), "open files").status == "ok"


@pytest.mark.parametrize(
    ("cuda", "environ", "said", "status", "part"),
    [
        ("13.0", {}, ["The NVIDIA driver on your system is too old"], "broken", "driver on your system is too old"),
        (None, {}, [], "broken", "this torch has no CUDA"),
        ("13.0", {"CUDA_VISIBLE_DEVICES": ""}, [], "note", "hides 1"),
    ],
)
def test_a_gpu_that_torch_cannot_use(tmp_path, cuda, environ, said, status, part):
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    torch = SimpleNamespace(version=SimpleNamespace(cuda=cuda), backends=SimpleNamespace())
    check = machine._no_gpu(torch, said, environ, dev=tmp_path)
    assert check.status == status
    assert part in check.text
    assert check.fix
    assert machine._no_gpu(torch, said, {}, dev=tmp_path / "nowhere").status == "note"


# -- a launch ----------------------------------------------------------------------------------------------------------


def test_processes_on_this_machine():
    result = warm.run("--dist", "2", "--timeout", "120", program=CALL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n") == 4
    assert "launch: 2 processes by environment, gloo, 127.0.0.1:" in result.stdout
    assert "ok: all-reduce over 2 processes in" in result.stdout
    assert result.stderr == ""


def test_ranks_of_torchrun_are_told_and_one_with_another_package_is_named(tmp_path):
    results = run_ranks(2, "--dist", "--timeout", "120", "--json", program=CALL)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    report = json.loads(results[0].stdout)
    assert report["ok"]
    assert report["launcher"] == "torchrun"
    assert [process["rank"] for process in report["processes"]] == [0, 1]

    fake_package(tmp_path, "torchmetrics", "0.1.0")
    other = f"import os, sys\nif os.environ['RANK'] == '1':\n    sys.path.insert(0, {str(tmp_path)!r})\n{CALL}"
    results = run_ranks(2, "--dist", "--timeout", "120", program=other)
    assert [result.returncode for result in results] == [1, 1]
    line = f"broken: torchmetrics is {installed_version('torchmetrics')} on most processes, but rank 1 on "
    assert f"{line}{socket.gethostname()}" in results[0].stdout
    assert "has 0.1.0" in results[0].stdout
    assert results[1].stdout == ""  # rank 0 has told it


def test_a_launch_that_is_none(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "RANK", "WORLD_SIZE")):
            monkeypatch.delenv(name)
    with pytest.raises(UserError, match="started alone"):
        main(["--dist"])
    with pytest.raises(UserError, match="--timeout must be above 0"):
        main(["--dist", "--timeout", "0"])
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="WORLD_SIZE is not set"):
        main(["--dist"])


@pytest.mark.parametrize("count", ["0", "x", "1.5"])
def test_a_number_of_processes_that_is_none_is_one_line(count):
    with pytest.raises(UserError, match="--dist: a number of processes, 1 or more"):
        main(["--dist", count])
