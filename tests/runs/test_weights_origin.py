"""The run that a file of weights prescribes."""

import pickle
from pathlib import Path

import torch

from mvrec.cli.config_check import entries
from mvrec.cli.run_defaults import inherited
from mvrec.data.views.protocol import DetectionProtocol, protocol_of
from mvrec.models import SegmentationHead, create_model
from mvrec.models.checkpoints.detector_files import as_detector_file
from mvrec.models.checkpoints.segmenters import PROTOCOL, as_mmseg
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.runs.weights_origin import starting_point
from mvrec.tasks.detection.head import HeadParts
from mvrec.tasks.detection.task import Detection
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


def test_a_detector_of_detectron2_prescribes_its_windows_data_with_objects_and_its_head(tmp_path: Path) -> None:
    network = create_model("mvit_v2_t", detection=True)
    arguments = {"detector": "cascade_mask_rcnn", "style": "detectron2", "channels": 8, "box_width": 8, "box_convs": 1}
    head = DetectionHead(network.feature_info, 80, rpn_convs=2, head_norm=True, **arguments)
    network.place_head(head, 80)
    content = as_detector_file(network.state_dict(), "detectron2", class_names=(), facts={})
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in content["model"].items()}}))
    start = starting_point(path, where="--model.weights")
    assert (start.name, start.summary) == ("mvit_v2_t", f"{path}: mvit_v2_t (detectron2 layout), 80 classes")
    assert start.data["class_path"] == "mvrec.data.ObjectFolder"
    assert start.data["init_args"]["protocol"] == "detectron2-1333x800"
    assert protocol_of(start.details["protocol"]) == DetectionProtocol.named("detectron2-1333x800")
    assert start.backbone["init_args"]["window"] == 56
    assert start.details["class_names"][-1] == "toothbrush"
    parts = HeadParts(rpn_convs=2, box_convs=1, box_width=8, head_norm=True)
    task = Detection(
        create_model("mvit_v2_t", detection=True),
        weights=str(path),
        detector="cascade_mask_rcnn",
        style="detectron2",
        channels=8,
        head=parts,
    )
    assert DetectionHead(network.feature_info, 80, **task.head_arguments).arguments == head.arguments
    assert torch.equal(task.backbone.head.neck.inner_blocks[0][0].weight, head.neck.inner_blocks[0][0].weight)


def test_weights_give_another_kind_of_data_the_arguments_that_it_has(tmp_path: Path) -> None:
    torch.save(create_model("cloformer_xxs").state_dict(), path := tmp_path / "x.pth")
    for name, others in (("ImageFolder", {"crop_fraction", "interpolation"}), ("VideoBoxes", set())):
        data = inherited(entries([f"--model.weights={path}", f"--data={name}"]), checkpoint=None)["data"]
        assert data["class_path"] == f"mvrec.data.{name}"
        assert data["init_args"].keys() == {"size", "normalisation", *others}
