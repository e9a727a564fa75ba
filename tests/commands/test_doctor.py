"""`mvrec doctor`, on this machine as it is and on machines with something wrong."""

import ctypes
import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
import warm

from mvrec.commands import doctor
from mvrec.commands.doctor import main
from mvrec.doctor import machine, media, packages
from mvrec.doctor.checks import Check
from mvrec.doctor.machine import machine_checks
from mvrec.doctor.packages import extra_checks, installed_version, lightning_checks, package_checks
from mvrec.errors import UserError, install_hint

CALL = "import sys; from mvrec.commands.doctor import main; main(sys.argv[1:])"


def fake_package(folder, name, version, *, module=None):
    """A package of another version, found before the real one."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if module is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(module)


def assert_check(checks, name, status, *, text="", fix=""):
    """The check of this name has the status, and parts of its text and fix."""
    (check,) = [check for check in checks if check.name == name]
    assert check.status == status, check
    assert text in check.text, check
    assert fix in check.fix, check


def test_this_machine_is_fine_and_its_decoders_are_really_tried(capsys):
    main([])
    out = capsys.readouterr().out
    for group in ("packages", "extras", "decoders", "machine", "devices"):
        assert f"\n{group}\n" in out
    for name in ("h264 by pyav", "mpeg4 by pyav", "JPEG and PNG", "torch"):
        assert re.search(f"^  ok +{name} ", out, re.MULTILINE), out
    for codec in ("hevc", "vp9", "av1"):  # not every PyAV has the encoders
        assert re.search(f"^  (ok|note) +{codec} ", out, re.MULTILINE), out
    assert "broken  " not in out


def test_text_and_json_say_the_same_and_broken_is_exit_code_1(monkeypatch, capsys):
    checks = [
        Check("packages", "torch", "ok", "2"),
        Check("decoders", "h264 by pyav", "broken", "crashed", "do <this>"),
        Check("packages", "av", "warning", "old"),
    ]
    monkeypatch.setattr(doctor, "all_checks", lambda: checks)
    with pytest.raises(SystemExit, match="1"):
        main([])
    assert capsys.readouterr().out.splitlines()[1:-1] == [
        *("packages", "  ok       torch         2", "  warning  av            old"),
        *("decoders", "  broken   h264 by pyav  crashed", "                         fix: do <this>"),
    ]
    with pytest.raises(SystemExit, match="1"):
        main(["--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is False
    values = {"group": "decoders", "name": "h264 by pyav", "status": "broken", "text": "crashed", "fix": "do <this>"}
    assert content["checks"][1] == values
    del checks[1]
    main(["--json"])
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_malicious_release_is_named_and_neither_it_nor_what_needs_it_is_imported(tmp_path):
    trap = tmp_path / "it was imported"
    fake_package(tmp_path, "lightning", "2.6.2", module=f"open({str(trap)!r}, 'w')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    call = [sys.executable, "-c", CALL]
    result = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1, result.stderr
    assert "2.6.2 is a malicious release" in result.stdout
    assert "lightning>=2.6.6,<2.7" in result.stdout
    assert "change every password" in result.stdout
    assert not trap.exists()
    groups = [line for line in result.stdout.splitlines()[1:-1] if not line.startswith(" ")]
    assert groups == ["packages", "extras", "machine"]


def test_releases_of_lightning():
    for versions, text in (
        ({"lightning": "2.6.3"}, "malicious"),
        ({"pytorch-lightning": "2.6.2"}, "malicious"),
        ({"lightning": "2.6.5"}, "runs code from checkpoints"),
    ):
        (check,) = lightning_checks(versions.get)
        assert check.status == "broken"
        assert text in check.text, versions
    assert lightning_checks({"lightning": "2.6.6", "pytorch-lightning": "2.6.7"}.get) == []
    assert lightning_checks({}.get) == []


def pretended(**versions):
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    return lambda name: names[name] if name in names else installed_version(name)


def test_packages_that_are_missing_old_or_do_not_fit_or_load(monkeypatch):
    checks = package_checks(pretended(av=None, torch="2.0.1+cu118", safetensors="0.1"), load=False)
    assert_check(checks, "av", "broken", text="not installed", fix="pip install 'av>=17.1'")
    assert_check(checks, "safetensors", "broken")
    assert_check(checks, "torch", "broken", text="2.0.1+cu118, mvrec needs ")
    fix = "pip install --upgrade torchvision torch"
    assert_check(checks, "torchvision and torch", "broken", text="here is 2.0.1+cu118", fix=fix)
    # A build is its release.
    checks = package_checks(pretended(torch=f"{installed_version('torch').partition('+')[0]}+cu128"), load=False)
    assert "broken" not in {check.status for check in checks}

    def load(name):
        if name == "safetensors":
            raise OSError("libx.so: cannot open shared object file")

    monkeypatch.setattr(packages, "importlib", SimpleNamespace(import_module=load))
    broken = [check for check in package_checks() if check.status == "broken"]
    text = "libx.so: cannot open shared object file"
    assert_check(broken, "safetensors", "broken", text=text, fix="pip install --force-reinstall")


def test_extras_are_notes():
    checks = extra_checks(pretended(timm=None, matplotlib="3.1"))
    assert_check(checks, "timm", "note", fix=install_hint("timm"))
    assert_check(checks, "plot", "warning")
    assert {"test", "dev"}.isdisjoint(check.name for check in checks)


def test_decoders_that_give_wrong_frames_or_crash_and_a_codec_without_encoder(monkeypatch):
    def read_levels(path, decoder):
        return [30, *media.LEVELS[:-1]] if decoder == "pyav" else ctypes.string_at(0)

    monkeypatch.setattr(media, "ENCODERS", {"mpeg4": media.ENCODERS["mpeg4"], "h266": ("libvvenc-that-is-not-there",)})
    monkeypatch.setattr(media, "read_levels", read_levels)
    checks = media.media_checks()
    fix = "pip install --force-reinstall av"
    assert_check(checks, "mpeg4 by pyav", "broken", text="gives the wrong frames", fix=fix)
    if installed_version("decord"):
        assert_check(checks, "mpeg4 by decord", "warning", text="SIGSEGV")  # nothing needs it
    assert_check(checks, "h266", "note")


def test_a_clip_that_is_cut_short(tmp_path):
    path = tmp_path / "x.mp4"
    assert media.write_clip(path, "h264") == "libx264"
    assert media.read_levels(path, "pyav") == pytest.approx(list(media.LEVELS), abs=3)
    path.write_bytes(path.read_bytes()[:300])
    assert isinstance(media.read_levels(path, "pyav"), str)


def test_cores_of_a_container_with_the_time_of_some(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr("mvrec.machine.CGROUPS", tmp_path)
    assert_check(machine_checks(environ={}), "cores", "ok", text=" a container with the time of 0.5")


def test_limits_of_memory_slurm_and_open_files_and_missing_shared_memory(tmp_path):
    (tmp_path / "memory.max").write_text(f"{2**31}\n")
    environment = {"SLURM_CPUS_PER_TASK": "999", "SLURM_JOB_ID": "1"}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        checks = machine_checks(cgroup=tmp_path, environ=environment, shm=tmp_path / "nowhere")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_check(checks, "memory", "warning", text="2.0 GiB of ")
    assert_check(checks, "cores", "warning", fix="--cpus-per-task=999")
    assert_check(checks, "shared memory", "broken")
    assert_check(checks, "open files", "warning", fix="ulimit -n ")


def test_shared_memory_is_compared_with_what_workers_need(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    need = "8 loader workers with steps of 8 clips need 294"
    for kibibytes, is_needed, status, text, fix in (
        (8 << 10, True, "broken", need, "--data.num_workers 0"),
        (64 << 10, True, "warning", need, "--data.num_workers 1"),
        (8000 << 10, True, "ok", "", ""),
        (128, False, "broken", "", "--data.num_workers 0"),  # batches go through memory without a file
        (256, False, "ok", "", ""),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(machine.shutil, "disk_usage", lambda path, free=kibibytes << 10: usage(0, 0, free))
            patch.setattr(os, "memfd_create", None, raising=False)
            if is_needed:
                patch.delattr(os, "memfd_create")
            checks = machine_checks(cgroup=tmp_path, shm=tmp_path, environ={"SLURM_CPUS_PER_TASK": "8"})
        assert_check(checks, "shared memory", status, text=text, fix=fix)


def test_a_gpu_that_torch_cannot_use(tmp_path):
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    for cuda, environment, warnings, status, text, fix in (
        ("13.0", {}, ["The driver on your system is too old"], "broken", "system is too old", "for CUDA 13.0"),
        (None, {}, [], "broken", "this torch has no CUDA", "pip install"),
        ("13.0", {"CUDA_VISIBLE_DEVICES": ""}, [], "note", "hides 1", "unset"),
    ):
        torch = SimpleNamespace(version=SimpleNamespace(cuda=cuda), backends=SimpleNamespace())
        check = machine._no_gpu(torch, warnings, environment, dev=tmp_path)
        assert_check([check], "GPU", status, text=text, fix=fix)
    assert machine._no_gpu(torch, [], {}, dev=tmp_path / "nowhere").status == "note"


def test_a_number_starts_as_many_processes_like_torchrun_and_fails_with_one_of_them(monkeypatch, capfd):
    program = """
import os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
words = (*(os.environ[name] for name in names), str(int(os.environ["MASTER_PORT"]) > 0), *sys.argv[1:])
os.write(1, (" ".join(words) + "\\n").encode())  # at once, next to the other process
sys.exit(os.environ["RANK"] == os.environ.get("FAILS"))
"""
    monkeypatch.setattr(doctor, "_ONE_OF_MANY", program)
    main(["--dist", "2", "--timeout", "120", "--json", "--backend", "gloo"])
    rest = "2 2 127.0.0.1 True --dist --timeout 120.0 --json --backend gloo"
    assert sorted(capfd.readouterr().out.splitlines()) == [f"0 0 {rest}", f"1 1 {rest}"]
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(SystemExit, match="1"):
        main(["--dist", "2"])


def test_ranks_are_told_and_one_with_another_package_is_named(tmp_path):
    environment = {"TORCHELASTIC_RUN_ID": None}
    rank_0, rank_1 = warm.run_ranks(2, "--dist", "--timeout", "120", program=CALL, env=environment)
    assert [rank_0.returncode, rank_1.returncode] == [0, 0], rank_0.stderr
    assert rank_0.stdout.count("\n") == 4
    assert "launch: 2 processes by environment, gloo, 127.0.0.1:" in rank_0.stdout
    assert "ok: all-reduce over 2 processes in" in rank_0.stdout
    assert rank_0.stderr == rank_1.stderr == ""

    fake_package(tmp_path, "torchmetrics", "0.1.0")
    other = f"import os, sys\nif os.environ['RANK'] == '1':\n    sys.path.insert(0, {str(tmp_path)!r})\n{CALL}"
    rank_0, rank_1 = warm.run_ranks(2, "--dist", "--timeout", "120", "--json", program=other)
    assert [rank_0.returncode, rank_1.returncode] == [1, 1]
    report = json.loads(rank_0.stdout)
    assert not report["ok"]
    assert report["launcher"] == "torchrun"
    assert [process["rank"] for process in report["processes"]] == [0, 1]
    (problem,) = report["problems"]
    usual = f"torchmetrics is {installed_version('torchmetrics')} on most processes, but rank 1 on "
    assert f"{usual}{socket.gethostname()}" in problem["text"]
    assert "has 0.1.0" in problem["text"]
    assert rank_1.stdout == ""  # rank 0 has told it


def test_a_launch_that_is_none(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "RANK", "WORLD_SIZE")):
            monkeypatch.delenv(name)
    with pytest.raises(UserError, match="started alone"):
        main(["--dist"])
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="WORLD_SIZE is not set"):
        main(["--dist"])
