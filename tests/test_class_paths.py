"""Class paths are imported only where a class is expected, and those of files only if they are allowed."""

import sys
from pathlib import Path

import pytest
import torch

from mvrec import class_paths
from mvrec.class_paths import MOVED, check_file_classes, current, imported, is_class_path, take_trusted, trust
from mvrec.cli.config_check import Entry, KnownKeys, class_path_of, trust_named
from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser
from mvrec.tasks import Classification

EARLIER_CHECKPOINT = Path(__file__).parent / "golden/earlier_run/checkpoints/last.ckpt"

OWN = """
from torch import nn
from mvrec.models.backbone import Backbone

class Tiny(Backbone):
    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.num_classes, self.num_features = num_classes, 8
        self.conv = nn.Conv3d(3, 8, 3, stride=2, padding=1)
        self.head = self.new_head(num_classes)

    @property
    def input_shape(self): return (3, 4, 32, 32)

    def make_head(self, num_classes): return nn.Linear(8, num_classes)

    def forward_features(self, x): return self.conv(x).relu().mean((2, 3, 4))

    def parameter_stages(self): return [("conv.",), ("head.",)]
"""
# The classes of earlier versions that a configuration could name, in modules that have moved since.
EARLIER = """
data: charades Charades; digit_images DigitImages; folder VideoFolder ImageFolder; hmdb51 HMDB51; image_data ImageData
data: imagenet ImageNet; kinetics Kinetics; moving_digits MovingDigits; protocol Views; rand_augment RandAugment
data: recognition_data RecognitionData; sampling ClipSpec; something_something SomethingSomething
data: transforms Augment RandomErasing Normalisation; ucf101 UCF101; video_data VideoData
models: baseline Baseline TimmBaseline TwoPathways; baselines create_baseline; feature_pyramid FeaturePyramid
models: mvit MViT
models: mvit_variants mvit_b24_32x3 mvit_b_16x4 mvit_b_32x3 mvit_b_image mvit_v2_b
models: mvit_variants mvit_v2_b_32x3 mvit_v2_l mvit_v2_l_40x3 mvit_v2_s mvit_v2_s_16x4 mvit_v2_t
models: pooling_attention BlockSpec
tasks: classification Classification
training: checkpoint_files CheckpointFiles; final_checkpoint FinalCheckpoint; mixing Mixing; position ExactPosition
training: preemption Preemption; preflight SharedState; progress Throughput EndReason LineProgress BarProgress
training: resume Resume; run_checkpoints CheckpointSettings BestAndLast; run_directory RunRecord SaveConfig MetricsCsv
training: watchdog Watchdog
"""


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setattr(class_paths, "_named", set())


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder on the path with a network of one's own and a module that may not be imported."""
    (tmp_path / "own_network.py").write_text(OWN)
    (tmp_path / "trap.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_network", None)


def test_class_paths_of_earlier_versions_import_the_present_classes():
    modules = set()
    for line in EARLIER.strip().splitlines():
        room, _, entries = line.partition(": ")
        for module, *names in map(str.split, entries.split("; ")):
            modules.add(f"mvrec.{room}.{module}")
            for name in names:
                path = f"mvrec.{room}.{module}.{name}"
                assert imported(path) is imported(current(path))
    assert modules == MOVED.keys()


def test_earlier_checkpoint_config_and_flag_are_tested_and_loaded(command, digits, tmp_path):
    """All three have class paths with the modules of that version."""
    checkpoint = torch.load(EARLIER_CHECKPOINT, weights_only=True)
    checkpoint["hyper_parameters"]["backbone"]["class_path"] = "mvrec.models.mvit.MViT"
    checkpoint["datamodule_hyper_parameters"]["class_path"] = "mvrec.data.moving_digits.MovingDigits"
    earlier, config = tmp_path / "earlier.ckpt", tmp_path / "earlier.yaml"
    torch.save(checkpoint, earlier)
    config.write_text("data: {class_path: mvrec.data.moving_digits.MovingDigits}\n")
    flags = [f"--config={config}", "--model.backbone=mvrec.models.mvit.MViT", f"--data.root={digits}"]
    code, _, err = command("test", earlier, *flags, f"--run_dir={tmp_path / 'run'}", "--trainer.limit_test_batches=1")
    assert code == 0, err
    assert load_recogniser(earlier).class_names
    task = Classification.load_from_checkpoint(EARLIER_CHECKPOINT)  # which names the task's class
    assert type(task.backbone).__name__ == "MViT"


def test_paths_and_numbers_are_no_class_paths_and_import_nothing(modules):
    for value in ("./two", ".5", "../a.b", "a/b.c", "~/x.y", "two", "a..b", "1.5", "a.b-c", "", None, 3):
        assert not is_class_path(value), value
    for key in ("data.root", "run_dir", "model.weights", "trainer.default_root_dir", "data.classes"):
        KnownKeys([key], [Entry("data", "mvrec.data.VideoFolder", "a"), Entry(key, "trap.mp4", "b")])
        assert "trap" not in sys.modules, key
    for key, name in (("data.root", "folder.v1"), ("model.backbone", "net.yaml")):
        assert class_path_of(Entry(key, name, "a")) is None


def test_keys_of_a_class_in_a_class_are_checked():
    outer = Entry("model.backbone", "mvrec.models.Framewise", "a")
    for inner, key, is_right in (("Shunted", "depth", True), ("mvrec.models.mvit_b_16x4", "depht", False)):
        keys = KnownKeys(["model.backbone"], [outer, Entry("model.backbone.backbone", inner, "b")])
        assert (keys.unknown_part(f"model.backbone.backbone.{key}") is None) is is_right


REFUSED = (
    ("backbone", {"class_path": "trap.Net"}, "its network is trap.Net, .* add --trust trap"),
    ("backbone", "trap.Net", "its network is trap.Net"),
    ("backbone", "{class_path: trap.Net}", "give a class"),
    ("backbone.class_path", "trap.Net", "its class is trap.Net"),
    (
        *("backbone", {"class_path": "mvrec.models.Framewise", "init_args": {"backbone": "trap.Net"}}),
        "its network is trap.Net",
    ),
    ("optimizer", {"class_path": "torch.hub.load"}, "its optimiser is torch.hub.load"),
    ("optimizer", {"class_path": "torch.optim.lr_scheduler.Counter"}, "which is not an optimiser"),
    ("data", {"class_path": "trap.Data"}, "its data module is trap.Data"),
    ("data", {"init_args": {"augment": {"after_crop": "trap.Data"}}}, "its augmentation is trap.Data"),
    ("data", {"augment": {"on_device": ["trap.Data"]}}, "its augmentation is trap.Data"),
    ("data", {"init_args": {"decoder": "trap.Stack"}}, "its decoder is trap.Stack, .* add --trust trap"),
    ("data", {"decoder": {"class_path": "trap.Stack"}}, "its decoder is trap.Stack"),
    ("loss", {"class_path": "trap.Net"}, "its loss is trap.Net"),
    ("loss", {"class_path": "torch.nn.Linear"}, "torch.nn.Linear, which is not a loss"),
    ("loss", "{class_path: trap.Net}", "its loss is '{class_path: trap.Net}': give a class"),
    (
        *("loss", {"class_path": "torch.nn.TripletMarginWithDistanceLoss", "init_args": {"distance": "trap.Net"}}),
        "its loss is trap.Net",
    ),
    ("lr_scheduler", {"class_path": "timm.scheduler.CosineLRScheduler"}, "its schedule is timm"),
    ("metrics", {"a": "trap.Net"}, "its metric is trap.Net"),
    ("metrics", {"a": {"class_path": "torchmetrics.MeanMetric"}}, "which is not a metric"),
    ("list", [{"class_path": "os.system"}], "its class is os.system"),
    ("backbone", {"class_path": "mvrec_like.Net"}, "no module mvrec_like .* add --trust FOLDER/mvrec_like.py"),
    ("backbone", {"class_path": "mvrec.models.Mvit"}, "mvrec.models has no 'Mvit'; did you mean 'MViT'"),
)


def test_file_that_names_a_class_it_may_not_is_one_line(modules):
    for key, value, message in REFUSED:
        with pytest.raises(UserError, match=rf"^x.ckpt: .*{message}.*$"):
            check_file_classes({key: value}, source="x.ckpt")
        assert "trap" not in sys.modules, value


def test_losses_schedules_and_metrics_of_libraries_need_no_trust():
    tree = {
        "loss": {"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"reduction": "mean"}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}},
        "metrics": {"f1": {"class_path": "torchmetrics.classification.MulticlassF1Score"}},
        "other_task": {"loss": "huber"},
    }
    check_file_classes(tree, source="x.ckpt")


def test_module_that_the_user_names_is_trusted(modules):
    tree = {"backbone": {"class_path": "own_network.Tiny"}, "optimizer": None}
    trust_named([Entry("run_dir", "own_network.Tiny", "a"), Entry("data", "a.yaml", "b")])
    with pytest.raises(UserError, match="add --trust own_network"):
        check_file_classes(tree, source="x.ckpt")
    trust_named([Entry("model.backbone", '{"class_path": "own_network.Tiny"}', "a")])
    check_file_classes(tree, source="x.ckpt")
    trust("trap")
    with pytest.raises(UserError, match=r"trap.Net cannot be imported \(RuntimeError: imported\)"):
        check_file_classes({"backbone": {"class_path": "trap.Net"}}, source="x.ckpt")


def test_module_beside_a_config_is_found_after_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("colorsys.py", "beside_a_config.py"):
        (tmp_path / name).write_text("class Net: pass\n")
    with pytest.raises(UserError, match=r"no module beside_a_config .*: put it next to the --config, or add --trust"):
        imported("beside_a_config.Net")
    trust_named([], configs=[tmp_path / "my.yaml"])
    assert imported("beside_a_config.Net").__module__ == "beside_a_config"
    with pytest.raises(UserError, match="colorsys has no 'Net'"):
        imported("colorsys.Net")
    sys.modules.pop("beside_a_config")


def test_trust_names_modules_in_any_command():
    assert take_trusted(["a", "--trust", "one", "--b", "--trust=two.three"]) == ["a", "--b"]
    check_file_classes({}, source="x")
    assert class_paths._named == {"one", "two.three"}
    for wrong in (["--trust"], ["--trust", "my-net"], ["--trust="]):
        with pytest.raises(UserError, match="--trust needs a module"):
            take_trusted(wrong)
    with pytest.raises(UserError, match=r"--trust: there is no module 'nowhere/mynet\.py'"):
        take_trusted(["--trust", "nowhere/mynet.py"])


@pytest.fixture
def swapped(small_run, modules, tmp_path):
    """Writes the checkpoint of a run with other values in a group of its settings; returns its path."""

    def write(group, **values):
        checkpoint = torch.load(small_run / "checkpoints/best.ckpt", weights_only=True)
        checkpoint[group].update(values)
        torch.save(checkpoint, tmp_path / "other.ckpt")
        return tmp_path / "other.ckpt"

    return write


def test_checkpoint_that_names_foreign_classes_or_settings_is_refused_in_one_line(command, swapped, tmp_path, digits):
    for group, values, message in (
        ("hyper_parameters", {"backbone": {"class_path": "trap.Net"}}, "its network is trap.Net"),
        ("datamodule_hyper_parameters", {"class_path": "trap.Data"}, "its data module is trap.Data"),
        ("hyper_parameters", {"backbone": {"class_path": "mvrec.models.load_weights"}}, "do not fit this version"),
        ("hyper_parameters", {"frobnicate": 3}, "do not fit this version"),
    ):
        other = swapped(group, **values)
        code, _, err = command("test", other, f"--data.root={digits}", f"--run_dir={tmp_path / 'r'}")
        assert (code, err.count("\n"), message in err) == (2, 1, True), err
        assert "trap" not in sys.modules
        assert not (tmp_path / "r").exists()


def test_recogniser_imports_no_module_of_a_file(swapped):
    for path, message in (
        ("trap.Net", r"--ckpt: .*other.ckpt: its network is trap.Net"),
        ("mvrec.models.load_weights", "cannot be built"),
    ):
        with pytest.raises(UserError, match=message):
            load_recogniser(swapped("hyper_parameters", backbone={"class_path": path, "init_args": {}}))
    assert "trap" not in sys.modules


def test_network_of_the_user_trains_tests_and_recognises(command, tiny, modules, tmp_path):
    run = tmp_path / "run"
    plain = [flag for flag in tiny if not flag.startswith("--model.backbone")]
    short = "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", f"--run_dir={run}"
    assert command("fit", *plain, "--model.backbone=own_network.Tiny", *short)[0] == 0
    class_paths._named.clear()
    code, _, err = command("test", run)
    assert (code, "add --trust own_network" in err) == (2, True)
    assert command("test", run, "--trust", "own_network", "--trainer.limit_test_batches=1")[0] == 0
    assert type(load_recogniser(run).backbone).__name__ == "Tiny"
