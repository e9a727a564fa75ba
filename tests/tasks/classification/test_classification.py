from types import SimpleNamespace

import pytest
from zoo_builds import BUILDS

from mvrec.data.views.targets import ClassIndex
from mvrec.errors import UserError
from mvrec.tasks import Classification


def fed(name: str, shape: tuple[int, ...], num_classes: int = 5) -> Classification:
    """A task whose network is for 64 x 64 pixels and whose data give inputs of some shape, as before training."""
    task = Classification(BUILDS[name](image_size=64))
    class_names = [str(number) for number in range(num_classes)]
    data = SimpleNamespace(clip_shape=shape, class_names=class_names, target_type=ClassIndex)
    task._trainer = SimpleNamespace(datamodule=data, strategy=None, state=SimpleNamespace(fn="fit"))
    task.configure_model()
    return task


@pytest.mark.parametrize(("name", "has_positions"), [("cloformer", False), ("sgformer", True)])
def test_another_size_is_worth_a_warning_where_there_are_positions(name, has_positions, caplog) -> None:
    fed(name, (3, 96, 96))
    assert ("(3, 96, 96): its position tables are interpolated" in caplog.text) == has_positions
    caplog.clear()
    fed(name, (3, 64, 64))
    assert not caplog.text


def test_the_head_is_fitted_to_the_data_and_an_image_network_not_fed_with_clips() -> None:
    assert fed("cloformer", (3, 64, 64), num_classes=7).backbone.num_classes == 7
    with pytest.raises(UserError, match=r"takes inputs of shape \(3, 64, 64\) .* the data give \(3, 4, 64, 64\)"):
        fed("cloformer", (3, 4, 64, 64))
