import itertools
from types import SimpleNamespace

import pytest

from mvrec.runs.progress import Throughput, starvation_advice


@pytest.mark.parametrize(
    ("wait", "workers", "needed"),
    [
        (0.5, 4, 8),  # busy workers that deliver half of what is needed
        (0.75, 0, 3),  # reading takes three times as long as the step
        (1.0, 1, 100),
    ],
)
def test_number_of_workers_that_would_feed_the_device(wait, workers, needed):
    advice = starvation_advice(wait, num_workers=workers, cores=1000, device_augment=False)
    assert f"about {needed} loader workers per process would feed the device, there are {workers}" in advice
    assert "\n" not in advice
    assert "cheaper" not in advice


def test_where_there_are_not_enough_cores_the_way_out_is_named():
    advice = starvation_advice(0.5, num_workers=4, cores=4, device_augment=False)
    assert "with 4 cores per process, make reading cheaper" in advice
    assert "mvrec prep resize --preset fastdecode" in advice
    assert "data.augment_on=device" in advice
    assert "augment_on" not in starvation_advice(0.5, num_workers=4, cores=4, device_augment=True)


@pytest.mark.parametrize(("seconds_of_waiting", "lines"), [(1.0, 1), (0.1, 0)])
def test_a_starved_run_says_so_once_and_a_fed_run_nothing(monkeypatch, caplog, seconds_of_waiting, lines):
    laps = itertools.cycle([seconds_of_waiting, 1.0])  # waiting for a batch and working on it, by turns
    monkeypatch.setattr(Throughput, "_lap", lambda self: next(laps))
    logged = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append(values))
    trainer = SimpleNamespace(world_size=1, num_devices=1, log_every_n_steps=1, loggers=[logger], train_dataloader=None)
    trainer.global_step = 1
    trainer.datamodule = SimpleNamespace(augment_on="worker", val_protocol=SimpleNamespace(view_noun="image"))
    throughput = Throughput()
    with caplog.at_level("INFO"):
        for batch in range(4):
            throughput.on_train_batch_start(trainer, None, [0], batch)
            throughput.on_train_batch_end(trainer, None, None, [0], batch)
    assert caplog.text.count("of the time is spent waiting for data") == lines
    assert logged[-1].keys() == {"train/images_per_second", "train/data_wait"}


def test_an_epoch_shorter_than_the_interval_is_logged_once_and_an_interval_of_0_stays():
    for interval, batches, expected in ((20, 3, 3), (20, float("inf"), 20), (2, 3, 2), (0, 3, 0)):
        trainer = SimpleNamespace(log_every_n_steps=interval, num_training_batches=batches)
        Throughput().on_train_start(trainer, None)
        assert trainer.log_every_n_steps == expected
