import logging

import pytest
import torch
import yaml
from zoo_builds import BUILDS

from mvrec.errors import UserError
from mvrec.models import MViT
from mvrec.tasks import Classification
from mvrec.tasks.classification.head import fit_head
from mvrec.tasks.start import Start


def small():
    network = {"num_frames": 4, "image_size": 32, "embed_dim": 8, "num_heads": 1, "depth": 2, "kv_stride": 1}
    return MViT(num_classes=3, **network, dim_mults={}, head_mults={}, q_strides={})


@pytest.fixture
def stored(tmp_path):
    """A network, a file of its weights whose three classes have names, and one without names."""
    model = small()
    named, nameless = tmp_path / "named.ckpt", tmp_path / "nameless.pth"
    card = {"class_names": ["a", "b", "c"], "position_grid": list(model.position_grid), "image_size": [32, 32]}
    torch.save({"state_dict": model.state_dict(), "mvrec": card}, named)
    torch.save({"model_state": model.state_dict()}, nameless)
    return model, named, nameless


def started(path, names, **knobs):
    model = small()
    start = Start(str(path))
    start.load(model)
    fit_head(model, names, start, **knobs)
    return model


def same_head(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.head.parameters(), other.head.parameters(), strict=True))


def test_the_head_stays_where_the_classes_are_the_files_and_is_new_where_they_are_others(stored, caplog):
    original, named, _ = stored
    caplog.set_level(logging.INFO)
    model = started(named, ["a", "b", "C"])
    assert same_head(model, original)
    assert torch.equal(model.blocks[0].norm1.weight, original.blocks[0].norm1.weight)
    for names in (["a", "b"], ["x", "b", "c"], ["b", "a", "c"], ["a", "b", "c", "d"]):
        caplog.clear()
        model = started(named, names)
        assert model.num_classes == len(names)
        assert f"the head of 3 classes is replaced by an untrained one of {len(names)}" in caplog.messages
        assert len(names) != 3 or not same_head(model, original)


def test_a_file_without_names_keeps_its_head_with_a_warning(stored, caplog):
    original, _, nameless = stored
    model = started(nameless, ["x", "y", "z"])
    assert same_head(model, original)
    assert "does not name its 3 classes: its head is kept" in caplog.text
    assert not same_head(started(nameless, ["x", "y", "z"], new_head=True), original)


def test_layers_are_frozen_from_the_stem_on():
    for freeze, trained in ((2, ("blocks.1.", "norm.", "head.")), ("backbone", ("head.",))):
        model = small()
        Start(freeze=freeze).freeze_layers(model)
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert all(name.startswith(trained) for name in names)
        assert all(any(name.startswith(part) for name in names) for part in trained)
    with pytest.raises(UserError, match="freeze=4: the network has 4 layers"):
        Start(freeze=4).freeze_layers(small())
    with pytest.raises(UserError, match="must be 0 or above"):
        Start(freeze=-1)


def test_running_statistics_of_frozen_layers_stay():
    model = BUILDS["cloformer"]()
    task = Classification(model, freeze="backbone")
    task.start.freeze_layers(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    task.train()
    model(torch.randn(2, 3, 64, 64))
    assert before
    assert model.head.training
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_weights_of_another_family_are_refused(tmp_path):
    torch.save(BUILDS["cloformer"]().state_dict(), tmp_path / "clo.pth")
    with pytest.raises(UserError, match=r"clo.pth: holds a CloFormer .* the network is a MViT"):
        Classification(small(), weights=str(tmp_path / "clo.pth"))


@pytest.mark.parametrize(
    ("task", "network"),
    [("Classification", "mvit_b_16x4"), ("Segmentation", "cloformer_xxs"), ("ActionDetection", "mvit_b_16x4")],
)
def test_the_default_optimiser_of_a_task_is_written_as_a_class(command, task, network):
    flags = [f"--model={task}", f"--model.backbone={network}", "--data=VideoFolder", "--data.root=x"]
    code, out, err = command("fit", *flags, "--print_config")
    assert code == 0, err
    optimizer = yaml.safe_load(out)["model"].get("init_args", yaml.safe_load(out)["model"])["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
