"""A process that hangs ends the run within the limit, and is named."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
import yaml
from warm import HANG, run_ranks

from mvrec.cluster import watchdog
from mvrec.cluster.watchdog import Sign, Watch, Watchdog, judge


def sign(rank: int, phase: int = 1, batch: int = 4, place: str = "batch 4 of epoch 0") -> Sign:
    return Sign(rank=rank, host=f"n{rank // 2}", pid=100 + rank, phase=phase, batch=batch, place=place)


def verdict(*signs: Sign, silent: dict[int, float] | None = None) -> tuple[tuple[int, ...], str]:
    return judge({sign.rank: sign for sign in signs}, silent or {})


def test_the_silent_process_is_named_else_the_one_behind_else_all():
    ranks, text = verdict(sign(0), sign(1, batch=2), sign(2), sign(3), silent={3: 17.4})
    assert ranks == (3,)
    assert text.startswith("rank 3 on n1 (pid 103) has given no sign of life for 17 s")
    assert "batch 4 of epoch 0" in text
    ranks, text = verdict(sign(0), sign(1), sign(2, batch=3, place="the data after batch 3 of epoch 0"), sign(3))
    assert ranks == (2,)
    assert text == (
        "rank 2 on n1 (pid 102) is alive but hung at the data after batch 3 of epoch 0, while the others wait"
    )
    # Ranks may have unequal shares of an evaluation: who is through has fewer batches, and waits.
    waits = sign(0, phase=5, batch=0, place="the scores of an evaluation")
    ranks, text = verdict(waits, sign(1, phase=4, batch=90, place="batch 89 of an evaluation"))
    assert ranks == (1,)
    assert "batch 89 of an evaluation" in text
    assert verdict(sign(0), sign(1)) == ((0, 1), "all 2 processes are hung at batch 4 of epoch 0")


def test_a_line_names_eight_and_counts_the_rest():
    many = [sign(0, batch=5), *(sign(rank) for rank in range(1, 21))]
    ranks, text = verdict(*many)
    assert ranks == tuple(range(1, 21))
    assert text.count("is alive") == 8
    assert "; and 12 more, while" in text


class Talk(dict):
    """A store in this process."""

    set = dict.__setitem__

    def multi_get(self, keys):
        return [self[key] for key in keys]


class Fake(Watch):
    """A watchdog whose time the test turns, and whose end is an event."""

    def __init__(self, *signs: Sign, rank: int = 0, size: int = 2) -> None:
        self.codes: list[int] = []
        self.store = Talk()
        super().__init__(self.store, "n0", rank=rank, size=size, seconds=20.0, end=self.codes.append)
        self.hear(*signs)

    def hear(self, *signs: Sign, count: int = 1) -> None:
        """Let it hear these signs, each the one of this number."""
        self._signs |= {sign.rank: sign for sign in signs}
        self.store.update({f"sign/{sign.rank}": json.dumps([count, asdict(sign)]) for sign in signs})
        self._heartbeat.hear(self._signs, now=self._clock)

    def turn(self, times: list[float]) -> None:
        """Let the deciding thread's loop run with these times."""
        clock, beats = iter(times), iter([False] * (len(times) - 1) + [True])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watchdog.time, "monotonic", lambda: next(clock))
            patch.setattr(self._over, "wait", lambda seconds: next(beats))
            self._decide()


@pytest.fixture
def sleeps(monkeypatch) -> list[float]:
    """The time that the watchdog has slept, which takes none."""
    waited: list[float] = []
    monkeypatch.setattr(watchdog.time, "sleep", waited.append)
    return waited


def test_progress_starts_the_time_anew_and_a_suspended_process_has_not_stood_still(sleeps, capfd):
    watch = Fake(sign(0), sign(1, batch=3))
    watch._answered = 1000.0
    watch.turn([float(second) for second in range(21)])
    assert (watch.still, watch.codes) == (20.0, [])
    watch.at(1, 5, "batch 5 of epoch 0")
    assert watch.still == 0
    watch.turn([float(second) for second in range(21)])
    assert watch.codes == []
    watch.hear(sign(0), sign(1, batch=3), count=2)
    watch.turn([0.0, 1.0])
    assert watch.codes == [1]
    assert "mvrec: error: rank 1 on n0 (pid 101) is alive but hung" in capfd.readouterr().err
    suspended = Fake()  # a beat is a second
    suspended.turn([0.0, 1.0, 3601.0, 3602.0])
    assert (suspended.still, suspended.codes) == (1 + 2 + 1, [])


@pytest.mark.parametrize(("rank", "speaks", "dumps"), [(0, True, False), (1, False, True), (2, False, False)])
def test_one_process_speaks_and_the_one_that_hangs_shows_where(sleeps, capfd, rank, speaks, dumps):
    watch = Fake(sign(0), sign(1, batch=3), sign(2), rank=rank, size=3)
    watch._finish()
    err = capfd.readouterr().err
    assert ("mvrec: error: rank 1" in err) == speaks
    assert ("_finish" in err) == dumps
    assert sleeps == [5.0]  # three beats and two seconds: nobody ends before all have had their say
    assert watch._over.is_set()
    assert watch.codes == [1]


def test_a_silent_rank_is_known_by_its_beats_and_the_first_by_its_store(sleeps, capfd):
    watch = Fake(sign(0), sign(1))
    watch._clock = watch._answered = 10.0
    watch.hear(sign(0), count=2)
    ranks, text = watch._verdict()
    assert ranks == (1,)
    assert "no sign of life for 10 s" in text
    watch = Fake(sign(0), sign(1), rank=1)
    watch._clock, watch._answered = 30.0, 26.0
    watch._finish()
    assert "rank 0 on n0 does not answer" in capfd.readouterr().err


def test_the_store_learns_the_place_and_is_asked_only_when_it_is_late():
    watch = Fake()
    watch.store["sign/1"] = json.dumps([1, asdict(sign(1))])
    watch.at(2, 7, "batch 7 of epoch 1")
    watch._talk()
    _, entry = json.loads(watch.store["sign/0"])
    assert (entry["phase"], entry["place"]) == (2, "batch 7 of epoch 1")
    assert watch._signs == {}
    watch._clock = watch._moved + 9
    watch._talk()
    assert sorted(watch._signs) == [0, 1]


def test_a_lost_store_ends_the_talk_in_silence():
    def lost(key, value):
        raise dist.DistStoreError("gone")

    watch = Fake()
    watch.store.set = lost
    talk = watch._threads[0]
    talk.start()
    talk.join(HANG)
    assert not talk.is_alive()
    assert watch._answered == 0


def test_one_process_or_no_limit_starts_nothing():
    for world_size, seconds in ((1, 20.0), (2, 0.0)):
        trainer = SimpleNamespace(world_size=world_size, global_rank=0)
        callback = Watchdog(seconds)
        callback.setup(trainer, None, "fit")
        assert callback.watch is None
        callback.on_test_epoch_end(trainer, None)
        callback.teardown(trainer, None, "fit")


def test_a_process_that_hangs_is_named_and_shows_where(tiny, tmp_path):
    config = tmp_path / "callbacks.yaml"
    arguments = {"batch": 3, "rank": 1, "folder": str(tmp_path), "stop": False}
    callback = {"class_path": "step_recorder.Stand", "init_args": arguments}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    flags = [f"--config={config}", f"--run_dir={tmp_path / 'run'}", "--hang_timeout_minutes=0.25"]
    flags += ["--trainer.max_epochs=2", "--trainer.limit_val_batches=0"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "runs")}
    processes = run_ranks(2, "fit", *tiny, *flags, env=environment)
    assert [process.returncode for process in processes] == [1, 1]
    message = "".join(process.stderr for process in processes)
    assert re.search(r"mvrec: error: rank 1 on \S+ \(pid \d+\) is alive but hung at batch 0 of epoch 1", message), (
        message
    )
    # Each of the two speaks when its own clock says so, in either order.
    assert re.search(r"mvrec: rank 1 on \S+ \(pid \d+\) hangs here:\n(.*\n)*?.*step_recorder.py", message), message
