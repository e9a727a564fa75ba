from types import SimpleNamespace

import pytest

from mvrec.data.views.targets import ClassIndex
from mvrec.errors import UserError
from mvrec.models import create_model
from mvrec.models.backbone import Backbone
from mvrec.tasks import Classification


def fed(backbone: Backbone, shape: tuple[int, ...], num_classes: int = 5) -> Classification:
    """A task whose data give inputs of some shape, configured as before training."""
    task = Classification(backbone)
    task._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(
            clip_shape=shape, class_names=[str(number) for number in range(num_classes)], target_type=ClassIndex
        ),
        strategy=None,
        state=SimpleNamespace(fn="fit"),
    )
    task.configure_model()
    return task


@pytest.mark.parametrize(("name", "has_positions"), [("cloformer_xxs", False), ("sgformer_s", True)])
def test_another_size_is_worth_a_warning_where_there_are_positions(name, has_positions, caplog) -> None:
    fed(create_model(name, num_classes=5, image_size=64), (3, 96, 96))
    assert ("(3, 96, 96): its position tables are interpolated" in caplog.text) == has_positions
    caplog.clear()
    fed(create_model(name, num_classes=5, image_size=64), (3, 64, 64))
    assert not caplog.text


def test_the_head_is_fitted_to_the_data() -> None:
    assert fed(create_model("cloformer_xxs"), (3, 64, 64), num_classes=7).backbone.num_classes == 7


def test_an_image_network_is_not_fed_with_clips() -> None:
    with pytest.raises(UserError, match=r"takes inputs of shape \(3, 224, 224\) .* the data give \(3, 4, 64, 64\)"):
        fed(create_model("cloformer_xxs"), (3, 4, 64, 64))
