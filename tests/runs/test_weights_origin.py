"""The run that a file of weights prescribes."""

from pathlib import Path

import torch

from mvrec.cli.config_check import entries
from mvrec.cli.run_defaults import inherited
from mvrec.models import SegmentationHead, create_model
from mvrec.models.checkpoints.segmenters import PROTOCOL, as_mmseg
from mvrec.runs.weights_origin import starting_point
from mvrec.tasks.segmentation.task import Segmentation


def test_a_segmenter_of_mmsegmentation_prescribes_data_with_masks_and_its_head(tmp_path: Path) -> None:
    network = create_model("cloformer_xxs")
    head = SegmentationHead(network.feature_info, 2, channels=8)
    network.place_head(head, 2)
    content = as_mmseg(network.state_dict(), class_names=["sky", "road"], palette=[[0, 0, 1], [0, 2, 0]], facts={})
    path = tmp_path / "mmseg.pth"
    torch.save(content, path)
    start = starting_point(path, where="--model.weights")
    assert start.summary == f"{path}: cloformer_xxs (CloFormer layout), 2 classes"
    assert start.name == "cloformer_xxs"
    data = {"protocol": PROTOCOL["name"], "size": PROTOCOL["size"], "normalisation": PROTOCOL["normalisation"]}
    assert start.data == {"class_path": "mvrec.data.MaskFolder", "init_args": data}
    task = Segmentation(create_model("cloformer_xxs"), weights=str(path), channels=8)
    assert SegmentationHead(network.feature_info, 2, **task.head_arguments).arguments == head.arguments
    assert torch.equal(task.backbone.head.decoder.conv_seg.weight, head.decoder.conv_seg.weight)
    # Without such weights the norm is the one that the maps of the network need.
    assert Segmentation(create_model("cloformer_xxs")).head_arguments["level_norm"] == "group"


def test_weights_give_another_kind_of_data_the_arguments_that_it_has(tmp_path: Path) -> None:
    torch.save(create_model("cloformer_xxs").state_dict(), path := tmp_path / "x.pth")
    for name, others in (("ImageFolder", {"crop_fraction", "interpolation"}), ("VideoBoxes", set())):
        data = inherited(entries([f"--model.weights={path}", f"--data={name}"]), checkpoint=None)["data"]
        assert data["class_path"] == f"mvrec.data.{name}"
        assert data["init_args"].keys() == {"size", "normalisation", *others}
