"""Our image networks through timm's own functions."""

import copy
import pickle

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import mvrec.models
import mvrec.timm
from mvrec.models import accelerate, cloformer_xxs, create_model, load_weights, shunted_t

NAMES = ["shunted_t", "sgformer_s", "cloformer_xxs"]
families = pytest.mark.parametrize("name", NAMES)


def images(size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_lists_all_image_families() -> None:
    assert timm.list_models("shunted*") == ["shunted_b", "shunted_s", "shunted_t"]
    assert timm.list_models("sgformer*") == ["sgformer_b", "sgformer_m", "sgformer_s"]
    assert timm.list_models("cloformer*") == ["cloformer_s", "cloformer_xs", "cloformer_xxs"]
    assert not set(mvrec.timm.VARIANTS) & set(timm.list_pretrained())


@families
def test_is_the_same_network_under_the_same_names(name: str) -> None:
    theirs = timm.create_model(name, num_classes=10, img_size=64).eval()
    ours = create_model(name, num_classes=10, image_size=64).eval()
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(images()), ours(images()), rtol=0, atol=0)


@families
def test_knobs_reach_the_network(name: str) -> None:
    model = timm.create_model(name, num_classes=10, drop_path_rate=0.5, in_chans=4, img_size=128, drop_rate=0.3)
    assert model.input_shape == (4, 128, 128)
    assert model(images(64, 4)).shape == (2, 10)
    rates = [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert max(rates) == 0.5
    ours = create_model(name)
    default = [module.p for module in ours.modules() if type(module).__name__ == "StochasticDepth"]
    plain = [m.p for m in timm.create_model(name).modules() if type(m).__name__ == "StochasticDepth"]
    assert plain == default


def test_drop_rate_is_the_classifiers_dropout() -> None:
    model = timm.create_model("cloformer_xxs", drop_rate=0.5)
    features = torch.ones(1, 256, 2, 2)
    assert (model.train().forward_head(features, pre_logits=True) == 0).any()
    assert (model.eval().forward_head(features, pre_logits=True) == 1).all()


@families
def test_features_head_and_classifier_work_as_timms(name: str) -> None:
    model = timm.create_model(name, num_classes=10).eval()
    features = model.forward_features(images())
    assert features.shape == (2, model.num_features, 2, 2)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    torch.testing.assert_close(model.forward_head(features), model(images()))
    torch.testing.assert_close(model.get_classifier()(pooled), model(images()))
    assert (model.head_hidden_size, model.num_classes) == (pooled.shape[1], 10)

    model.reset_classifier(5)
    assert model(images()).shape == (2, 5)
    assert model.get_classifier().out_features == 5
    model.reset_classifier(0)
    torch.testing.assert_close(model(images()), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images()), features)
    with pytest.raises(ValueError, match="global_pool must be 'avg', or '' with 0 classes, got '' with 3"):
        model.reset_classifier(3)


@families
def test_features_only_gives_the_pyramid(name: str) -> None:
    model = timm.create_model(name, features_only=True, out_indices=(1, 2, 3)).eval()
    ours = create_model(name).eval()
    ours.reset_head(0)
    model.model.load_state_dict(ours.state_dict())
    expected = ours.feature_maps(images())
    for level, other in zip(model(images()), expected[1:], strict=True):
        torch.testing.assert_close(level, other)
    assert model.feature_info.channels() == [info.channels for info in ours.feature_info[1:]]
    assert model.feature_info.reduction() == [8, 16, 32]
    last = timm.create_model(name, features_only=True, out_indices=(-1,)).eval()
    assert [tuple(level.shape) for level in last(images())] == [tuple(expected[-1].shape)]
    everything = timm.create_model(name, features_only=True)
    assert everything.feature_info.reduction() == [4, 8, 16, 32]


def test_intermediates_as_timm_counts_them() -> None:
    model = timm.create_model("cloformer_xxs").eval()
    last, maps = model.forward_intermediates(images())
    assert [level.shape[1] for level in maps] == [32, 64, 128, 256]
    torch.testing.assert_close(last, model.forward_features(images()))
    two = model.forward_intermediates(images(), indices=2, intermediates_only=True)
    assert [level.shape[1] for level in two] == [128, 256]
    with pytest.raises(ValueError, match=r"there are 4 maps, 0\.\.3, got the indices \(4,\)"):
        model.forward_intermediates(images(), indices=[4])
    with pytest.raises(ValueError, match="the maps are NCHW, not 'NLC'"):
        model.forward_intermediates(images(), output_fmt="NLC")


@families
def test_timm_knows_how_to_feed_it(name: str) -> None:
    model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 224, 224)
    assert config["interpolation"] == "bicubic"
    assert config["crop_pct"] == {"sgformer_s": 0.9}.get(name, 0.875)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["std"] == (0.229, 0.224, 0.225)
    assert model.default_cfg is model.pretrained_cfg
    modules = dict(model.named_modules())
    assert isinstance(modules[model.pretrained_cfg["first_conv"]], torch.nn.Conv2d)
    assert model.pretrained_cfg["first_conv"] == next(
        path for path, module in modules.items() if isinstance(module, torch.nn.Conv2d)
    )
    assert isinstance(modules[model.pretrained_cfg["classifier"]], torch.nn.Linear)


@families
def test_timms_optimizers_decay_by_layer(name: str) -> None:
    model = timm.create_model(name)
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    depth = len(model.layer_groups())
    scales = sorted({group["lr_scale"] for group in groups})
    assert scales == [0.5**power for power in range(depth - 1, -1, -1)]
    by_scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for level, names in enumerate(model.layer_groups()):
        assert {by_scale[id(model.get_parameter(name))] for name in names} == {0.5 ** (depth - 1 - level)}
    undecayed = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert undecayed == {id(model.get_parameter(name)) for name in model.no_weight_decay()}
    optimizer = create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    assert min(group["lr_scale"] for group in optimizer.param_groups) == scales[0]


@families
def test_coarse_groups_are_the_stages(name: str) -> None:
    model = timm.create_model(name)
    level = model.group_matcher(coarse=True)
    fine = model.group_matcher()
    names = [parameter for parameter, _ in model.named_parameters()]
    assert {level(parameter) for parameter in names} == {0, 1, 2, 3, 4, 5}  # stem, four stages, head
    in_order = [level(parameter) for parameter in sorted(names, key=fine)]
    assert in_order == sorted(in_order)


def test_gradient_checkpointing_is_ours() -> None:
    model = timm.create_model("cloformer_xxs")
    model.set_grad_checkpointing()
    assert model.activation_checkpointing
    model.set_grad_checkpointing(False)
    assert not model.activation_checkpointing


def test_there_are_no_hosted_weights_but_files_load(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^shunted_t has no hosted weights for pretrained=True; load a file with "):
        timm.create_model("shunted_t", pretrained=True)
    trained = accelerate(shunted_t()).eval()
    path = tmp_path / "weights.pth"
    torch.save({"model": trained.state_dict()}, path)
    model = timm.create_model("shunted_t").eval()
    load_weights(model, path)
    torch.testing.assert_close(model(images()), trained(images()), rtol=0, atol=0)
    by_timm = timm.create_model("shunted_t", checkpoint_path=str(path)).eval()
    torch.testing.assert_close(by_timm(images()), trained(images()), rtol=0, atol=0)


def test_copies_and_pickles() -> None:
    model = timm.create_model("cloformer_xxs", num_classes=3).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is mvrec.timm.TimmCloFormer
        torch.testing.assert_close(twin(images()), model(images()))


def test_our_own_networks_stay_as_they_are() -> None:
    assert type(cloformer_xxs()) is mvrec.models.CloFormer
    assert cloformer_xxs().forward_features(images()).shape == (2, 256)


def test_works_as_a_baseline_of_ours_too() -> None:
    model = create_model("timm/cloformer_xxs", num_classes=3).eval()
    assert model.forward_features(images()).shape == (2, 256)
    assert model(images()).shape == (2, 3)
    assert [info.stride for info in model.feature_info] == [4, 8, 16, 32]


def test_a_wrong_knob_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'embed_dim'"):
        timm.create_model("shunted_t", embed_dim=3)
