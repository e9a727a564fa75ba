"""Our image networks through timm's own functions."""

import copy
import functools
import pickle

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import mvrec.models
import mvrec.timm
from mvrec.models import cloformer_xxs, create_model, load_weights
from mvrec.models.backbone import Backbone

families = pytest.mark.parametrize("name", ["shunted_t", "sgformer_s", "cloformer_xxs"])


def images(size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@functools.cache
def ours(name: str) -> Backbone:
    """Our network with 10 classes, built once and never changed."""
    return create_model(name, num_classes=10).eval()


@functools.cache
def timms(name: str) -> Backbone:
    """Timm's form of it with the same weights, built once and never changed."""
    model = timm.create_model(name, num_classes=10).eval()
    model.load_state_dict(ours(name).state_dict())
    return model


def drop_rates(model: torch.nn.Module) -> list[float]:
    return [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]


def test_timm_lists_all_image_families() -> None:
    for family, sizes in {"shunted": "bst", "sgformer": "bms"}.items():
        assert timm.list_models(f"{family}*") == [f"{family}_{size}" for size in sizes]
    assert timm.list_models("cloformer*") == ["cloformer_s", "cloformer_xs", "cloformer_xxs"]
    assert not set(mvrec.timm.VARIANTS) & set(timm.list_pretrained())


@families
def test_knobs_reach_the_network_and_defaults_are_ours(name: str) -> None:
    knobs = {"drop_path_rate": 0.5, "in_chans": 4, "img_size": 128, "drop_rate": 0.3}
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10, **knobs)
    assert model.input_shape == (4, 128, 128)
    assert model(images(64, 4).to("meta")).shape == (2, 10)
    assert max(drop_rates(model)) == 0.5
    assert drop_rates(timms(name)) == drop_rates(ours(name))
    features = torch.ones(1, 256, 2, 2)
    assert (model.train().forward_head(features, pre_logits=True) == 0).any()  # drop_rate is that of the classifier
    assert (model.eval().forward_head(features, pre_logits=True) == 1).all()
    with pytest.raises(TypeError, match="unexpected keyword argument 'embed_dim'"):
        timm.create_model(name, embed_dim=3)


@families
def test_network_of_timm_has_our_names_and_outputs_and_timms_methods(name: str) -> None:
    model = copy.deepcopy(timms(name))
    assert list(model.state_dict()) == list(ours(name).state_dict())
    logits = model(images())
    torch.testing.assert_close(logits, ours(name)(images()), rtol=0, atol=0)
    features = model.forward_features(images())
    assert features.shape == (2, model.num_features, 2, 2)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    torch.testing.assert_close(model.forward_head(features), logits)
    torch.testing.assert_close(model.get_classifier()(pooled), logits)
    assert (model.head_hidden_size, model.num_classes) == (pooled.shape[1], 10)

    model.reset_classifier(5)
    assert model.forward_head(features).shape == (2, 5)
    assert model.get_classifier().out_features == 5
    model.reset_classifier(0)
    torch.testing.assert_close(model.forward_head(features), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images()), features)
    with pytest.raises(ValueError, match="global_pool must be 'avg', or '' with 0 classes, got '' with 3"):
        model.reset_classifier(3)


@families
def test_features_only_has_the_levels_of_our_feature_maps(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True).eval()
    shapes = [level.shape for level in ours(name).feature_maps(images())]
    assert [level.shape for level in model(images().to("meta"))] == shapes
    assert model.feature_info.channels() == [info.channels for info in ours(name).feature_info]
    assert model.feature_info.reduction() == [4, 8, 16, 32]


@families
def test_timm_knows_how_to_feed_the_network_and_its_layers(name: str) -> None:
    model = timms(name)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["interpolation"]) == ((3, 224, 224), "bicubic")
    assert config["crop_pct"] == {"sgformer_s": 0.9}.get(name, 0.875)
    assert (config["mean"], config["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert model.default_cfg is model.pretrained_cfg
    modules = dict(model.named_modules())
    assert model.pretrained_cfg["first_conv"] == next(p for p, m in modules.items() if isinstance(m, torch.nn.Conv2d))
    assert isinstance(modules[model.pretrained_cfg["classifier"]], torch.nn.Linear)

    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    depth = len(model.layer_groups())
    scales = [0.5**power for power in range(depth - 1, -1, -1)]
    by_scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for scale, names in zip(scales, model.layer_groups(), strict=True):
        assert {by_scale[id(model.get_parameter(name))] for name in names} == {scale}
    undecayed = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert undecayed == {id(model.get_parameter(name)) for name in model.no_weight_decay()}
    optimizer = create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    assert min(group["lr_scale"] for group in optimizer.param_groups) == scales[0]

    stage_of, fine = model.group_matcher(coarse=True), model.group_matcher()
    in_order = [stage_of(parameter) for parameter in sorted(dict(model.named_parameters()), key=fine)]
    assert set(in_order) == {0, 1, 2, 3, 4, 5}  # stem, four stages, head
    assert in_order == sorted(in_order)


def test_intermediates_are_our_feature_maps_and_counted_as_timm_counts_them() -> None:
    model, expected = timms("cloformer_xxs"), ours("cloformer_xxs").feature_maps(images())
    last, maps = model.forward_intermediates(images())
    torch.testing.assert_close([*maps, last], [*expected, expected[-1]])
    for indices, levels in (((1, 2, 3), expected[1:]), ((-1,), expected[-1:])):
        features = timm.create_model("cloformer_xxs", features_only=True, out_indices=indices).eval()
        features.model.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
        torch.testing.assert_close(features(images()), list(levels))
        assert features.feature_info.reduction() == [4, 8, 16, 32][-len(levels) :]
    two = model.forward_intermediates(images(), indices=2, intermediates_only=True)
    assert [level.shape[1] for level in two] == [128, 256]
    with pytest.raises(ValueError, match=r"there are 4 maps, 0\.\.3, got the indices \(4,\)"):
        model.forward_intermediates(images(), indices=[4])
    with pytest.raises(ValueError, match="the maps are NCHW, not 'NLC'"):
        model.forward_intermediates(images(), output_fmt="NLC")


def test_hosted_weights_are_refused_and_files_and_copies_have_the_same_outputs(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^shunted_t has no hosted weights for pretrained=True; load a file with "):
        timm.create_model("shunted_t", pretrained=True)
    model, path = timms("cloformer_xxs"), tmp_path / "weights.pth"
    torch.save({"model": ours("cloformer_xxs").state_dict()}, path)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    twins.append(timm.create_model("cloformer_xxs", num_classes=10, checkpoint_path=str(path)).eval())
    twins.append(timm.create_model("cloformer_xxs", num_classes=10).eval())
    load_weights(twins[-1], path)
    for twin in twins:
        assert type(twin) is mvrec.timm.TimmCloFormer
        torch.testing.assert_close(twin(images()), model(images()), rtol=0, atol=0)
        for enabled in (True, False):
            twin.set_grad_checkpointing(enabled)
            assert twin.activation_checkpointing is enabled


def test_our_own_network_stays_as_it_is_and_timms_form_is_a_baseline() -> None:
    assert type(cloformer_xxs()) is mvrec.models.CloFormer
    assert ours("cloformer_xxs").forward_features(images()).shape == (2, 256)
    model = create_model("timm/cloformer_xxs", num_classes=3).eval()
    assert model.forward_features(images()).shape == (2, 256)
    assert model(images()).shape == (2, 3)
    assert [info.stride for info in model.feature_info] == [4, 8, 16, 32]
