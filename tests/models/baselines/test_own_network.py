"""`OwnNetwork`: any module with `forward` behind the contract."""

import pytest
import torch
from torch import nn

from mvrec.errors import UserError
from mvrec.models import OwnNetwork
from mvrec.models.checkpoints import load_weights, start_from
from mvrec.tasks.start import Start, check_network


class Net(nn.Module):
    """A network of clips; its last layer is used as `ending` says."""

    def __init__(self, num_classes: int = 7, ending: str = "logits") -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm3d(4)
        self.fc = nn.Linear(4, num_classes)
        self.ending = ending

    def forward(self, x):
        features = self.norm(self.conv(x)).relu().mean((2, 3, 4))
        return {
            "logits": lambda: self.fc(features),
            "features": lambda: features,
            "scaled": lambda: self.fc(features) * 2,
            "weight used": lambda: self.fc(features) if self.fc.weight is not None else None,
            "map": lambda: self.conv(x),
            "dict": lambda: {"out": features},
        }[self.ending]()


def own(network, **size):
    return OwnNetwork(network, **{"num_frames": 4, "image_size": 16, **size})


CLIPS = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_last_linear_layer_of_logits_becomes_the_head_and_keeps_its_weights():
    network = Net().eval()
    logits = network(CLIPS)
    backbone = own(network).eval()
    assert torch.equal(backbone(CLIPS), logits)
    assert (backbone.num_classes, backbone.num_features, backbone.input_shape) == (7, 4, (3, 4, 16, 16))
    backbone.reset_head(3)
    assert backbone(CLIPS).shape == (2, 3)
    assert backbone.layer_groups()[-1] == ["head.weight", "head.bias"]
    assert backbone.net.norm.num_batches_tracked == 0  # looking at it taught it nothing


def test_features_get_a_head_unless_they_are_as_many_as_the_classes():
    backbone = own(Net(ending="features"))
    assert (backbone.num_classes, backbone.num_features) == (0, 4)
    backbone.reset_head(3)
    assert backbone(CLIPS).shape == (2, 3)
    assert backbone.summary == "Net (4 features)"
    backbone = own(Net(ending="features"))
    backbone.reset_head(4)
    assert isinstance(backbone.head, nn.Identity)
    assert backbone.summary == "Net (its 4 outputs are taken for logits: as many as classes, no head is added)"


@pytest.mark.parametrize("ending", ["scaled", "weight used"])
def test_logits_without_a_layer_that_can_be_taken_out_serve_their_own_classes_only(ending):
    backbone = own(Net(ending=ending)).eval()
    assert (backbone(CLIPS).shape, backbone.num_classes) == ((2, 7), 7)
    backbone.reset_head(7)
    with pytest.raises(
        UserError, match=r"Net gives 7 outputs, and 3 classes need as many: build it with num_classes=3"
    ):
        backbone.reset_head(3)


def test_its_own_weights_load_and_start_a_training_for_other_classes(tmp_path):
    weights = tmp_path / "own.pt"
    torch.save(Net().state_dict(), weights)
    backbone = own(Net())
    load_weights(backbone, weights)
    assert torch.equal(backbone.head.weight, torch.load(weights)["fc.weight"])
    backbone.reset_head(3)
    start_from(backbone, weights)
    assert torch.equal(backbone.net.conv.weight, torch.load(weights)["conv.weight"])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Net(ending="map"), r"Net.forward returns shape \(2, 4, 1, 7, 7\) for \(B, C, T, H, W\) = \(2, 3, 4, 16, 16\)"),
        (Net(ending="dict"), "Net.forward returns a dict, expected a tensor"),
        (Net(ending="typo"), "Net.forward fails on .*: KeyError: 'typo'$"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            r"put it into mvrec.models.Framewise",
        ),
    ],
)
def test_a_forward_that_does_not_fit_is_one_line(network, message):
    with pytest.raises(UserError, match=message) as error:
        own(network)
    assert "\n" not in str(error.value)


def test_what_needs_the_order_of_layers_is_refused_and_the_rest_freezes():
    backbone = own(Net())
    with pytest.raises(
        UserError, match=r"model.layer_decay=0.5: the order of the layers of Net is unknown; set it to 1"
    ):
        check_network(backbone, 0.5)
    with pytest.raises(UserError, match=r"model.freeze=1: the order .* \"backbone\" freezes all but the head"):
        Start(freeze=1).freeze_layers(backbone)
    Start(freeze="backbone").freeze_layers(backbone)
    assert [name for name, weight in backbone.named_parameters() if weight.requires_grad] == [
        "head.weight",
        "head.bias",
    ]
    with pytest.raises(UserError, match=r"Net is no Backbone: wrap it, mvrec.models.OwnNetwork\(Net\(\), ...\)"):
        check_network(Net(), 1.0)
