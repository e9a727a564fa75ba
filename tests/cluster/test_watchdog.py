"""A process that hangs ends the run within the limit, and is named."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml
from warm import HANG, Process, start_ranks

from mvrec.cluster import watchdog
from mvrec.cluster.watchdog import Sign, Watch, Watchdog, judge

HERE = Path(__file__).parent


def sign(rank: int, phase: int = 1, batch: int = 4, place: str = "batch 4 of epoch 0") -> Sign:
    return Sign(rank=rank, host=f"n{rank // 2}", pid=100 + rank, phase=phase, batch=batch, place=place)


def signs(*them: Sign) -> dict[int, Sign]:
    return {one.rank: one for one in them}


# -- who it is -------------------------------------------------------------------------------------------------------


def test_who_gives_no_sign_is_named_first():
    ranks, text = judge(signs(sign(0), sign(1, batch=2), sign(2), sign(3)), {3: 17.4})
    assert ranks == (3,)
    assert text.startswith("rank 3 on n1 (pid 103) has given no sign of life for 17 s")
    assert "batch 4 of epoch 0" in text
    assert "rank 1" not in text


def test_who_is_behind_is_named():
    ranks, text = judge(
        signs(sign(0), sign(1), sign(2, batch=3, place="the data after batch 3 of epoch 0"), sign(3)), {}
    )
    assert ranks == (2,)
    assert text == (
        "rank 2 on n1 (pid 102) is alive but hung at the data after batch 3 of epoch 0, while the others wait"
    )


def test_a_phase_weighs_more_than_the_number_of_batches():
    """Ranks may have unequal shares of an evaluation: who is through has fewer batches, and waits."""
    waits = sign(0, phase=5, batch=0, place="the scores of an evaluation")
    ranks, text = judge(signs(waits, sign(1, phase=4, batch=90, place="batch 89 of an evaluation")), {})
    assert ranks == (1,)
    assert "batch 89 of an evaluation" in text


def test_where_nobody_is_behind_it_is_all_of_them():
    ranks, text = judge(signs(sign(0), sign(1)), {})
    assert ranks == (0, 1)
    assert text == "all 2 processes are hung at batch 4 of epoch 0"


def test_a_line_names_eight_and_counts_the_rest():
    many = signs(sign(0, batch=5), *(sign(rank) for rank in range(1, 21)))
    ranks, text = judge(many, {})
    assert ranks == tuple(range(1, 21))
    assert text.count("is alive") == 8
    assert "; and 12 more, while" in text
    _, text = judge(many, dict.fromkeys(range(1, 21), 9.0))
    assert text.count("no sign of life") == 8
    assert text.endswith("; and 12 more")


# -- one process's threads -------------------------------------------------------------------------------------------


class Talk(dict):
    """A store in this process."""

    def set(self, key, value):
        self[key] = value

    def multi_get(self, keys):
        return [self[key] for key in keys]


class Fake(Watch):
    """Whose time the test turns, and whose end is an event."""

    def __init__(self, store, *, rank: int = 0, size: int = 2, seconds: float = 20.0) -> None:
        self.codes: list[int] = []
        self.store = store
        super().__init__(store, "n0", rank=rank, size=size, seconds=seconds, end=self.codes.append)

    def hear(self, *signs: Sign, count: int = 1) -> None:
        """Let it hear these signs, each the one of this number."""
        self._signs |= {sign.rank: sign for sign in signs}
        self.store.update({f"sign/{sign.rank}": json.dumps([count, asdict(sign)]) for sign in signs})
        self._heartbeat.hear(self._signs, now=self._clock)

    def turn(self, monkeypatch, times: list[float]) -> None:
        """Let the deciding thread's loop run with these times."""
        clock = iter(times)
        beats = iter([False] * (len(times) - 1) + [True])
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(self._over, "wait", lambda seconds: next(beats))
        self._decide()


def test_progress_starts_the_time_anew(monkeypatch, capfd):
    watch = Fake(Talk())
    watch.hear(sign(0), sign(1, batch=3))
    watch._answered = 1000.0
    watch.turn(monkeypatch, [float(second) for second in range(21)])
    assert (watch.still, watch.codes) == (20.0, [])
    watch.at(1, 5, "batch 5 of epoch 0")
    assert watch.still == 0
    watch.turn(monkeypatch, [float(second) for second in range(21)])
    assert watch.codes == []
    watch.hear(sign(0), sign(1, batch=3), count=2)
    monkeypatch.setattr(watchdog.time, "sleep", lambda seconds: None)
    watch.turn(monkeypatch, [0.0, 1.0])
    assert watch.codes == [1]
    assert "mvrec: error: rank 1 on n0 (pid 101) is alive but hung" in capfd.readouterr().err


def test_a_suspended_process_has_not_stood_still(monkeypatch):
    watch = Fake(Talk())  # a beat is a second
    watch.turn(monkeypatch, [0.0, 1.0, 3601.0, 3602.0])
    assert watch.still == 1 + 2 + 1
    assert watch.codes == []


@pytest.mark.parametrize(("rank", "speaks", "dumps"), [(0, True, False), (1, False, True), (2, False, False)])
def test_one_process_speaks_and_the_one_that_hangs_shows_where(monkeypatch, capfd, rank, speaks, dumps):
    watch = Fake(Talk(), rank=rank, size=3)
    watch.hear(sign(0), sign(1, batch=3), sign(2))
    waited: list[float] = []
    monkeypatch.setattr(watchdog.time, "sleep", waited.append)
    watch._finish()
    err = capfd.readouterr().err
    assert ("mvrec: error: rank 1" in err) == speaks
    assert ("_finish" in err) == dumps
    assert waited == [5.0]  # three beats and two seconds: nobody ends before all have had their say
    assert watch._over.is_set()
    assert watch.codes == [1]


def test_a_silent_first_process_is_known_by_its_store(monkeypatch, capfd):
    monkeypatch.setattr(watchdog.time, "sleep", lambda seconds: None)
    watch = Fake(Talk(), rank=1)
    watch.hear(sign(0), sign(1))
    watch._clock, watch._answered = 30.0, 26.0
    watch._finish()
    assert "rank 0 on n0 does not answer" in capfd.readouterr().err


def test_a_rank_whose_beats_do_not_change_is_silent():
    watch = Fake(Talk(), size=2)
    watch.hear(sign(0), sign(1))
    watch._clock = watch._answered = 10.0
    watch.hear(sign(0), count=2)
    ranks, text = watch._verdict()
    assert ranks == (1,)
    assert "no sign of life for 10 s" in text


def test_the_store_learns_the_place_and_is_asked_only_when_it_is_late():
    store = Talk({"sign/1": json.dumps([1, asdict(sign(1))])})
    watch = Fake(store)
    watch.at(2, 7, "batch 7 of epoch 1")
    asked: list[list[str]] = []
    store.multi_get = lambda keys: asked.append(keys) or [store[key] for key in keys]
    watch._talk()
    _, told = json.loads(store["sign/0"])
    assert (told["phase"], told["place"]) == (2, "batch 7 of epoch 1")
    assert asked == []
    watch._clock = watch._moved + 9
    watch._talk()
    assert asked == [["sign/0", "sign/1"]]
    assert sorted(watch._signs) == [0, 1]


def test_a_lost_store_ends_the_talk_without_a_word():
    store = Talk()

    def lost(key, value):
        raise dist.DistStoreError("gone")

    store.set = lost
    watch = Fake(store)
    talk = watch._threads[0]
    talk.start()
    talk.join(HANG)
    assert not talk.is_alive()
    assert watch._answered == 0


@pytest.mark.parametrize(("world_size", "seconds"), [(1, 20.0), (2, 0.0)])
def test_one_process_or_no_limit_starts_nothing(world_size, seconds):
    trainer = type("Trainer", (), {"world_size": world_size, "global_rank": 0})()
    callback = Watchdog(seconds)
    callback.setup(trainer, None, "fit")
    assert callback.watch is None
    callback.on_test_epoch_end(trainer, None)
    callback.teardown(trainer, None, "fit")


# -- whole runs ------------------------------------------------------------------------------------------------------


def started(tiny, tmp_path, **stand) -> list[Process]:
    """Start a run on two processes, of which the second one hangs."""
    config = tmp_path / "callbacks.yaml"
    stand = {"class_path": "step_recorder.Stand", "init_args": {"rank": 1, "folder": str(tmp_path), **stand}}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [stand]}}))
    arguments = [*tiny, f"--config={config}", f"--run_dir={tmp_path / 'run'}", "--trainer.max_epochs=3"]
    environment = {"PYTHONPATH": str(HERE.parent / "runs")}
    return start_ranks(2, "fit", *arguments, "--hang_timeout_minutes=0.25", env=environment)


@pytest.mark.slow
def test_a_stopped_process_is_named(tiny, tmp_path):
    first, _ = started(tiny, tmp_path, batch=2, stop=True)
    assert first.wait() == 1, first.stderr
    said = r"mvrec: error: rank 1 on \S+ \(pid \d+\) has given no sign of life for \d+ s"
    assert re.search(said, first.stderr), first.stderr


def test_a_process_that_hangs_is_named_and_shows_where(tiny, tmp_path):
    processes = started(tiny, tmp_path, batch=3, stop=False)
    assert [process.wait() for process in processes] == [1, 1]
    said = "".join(process.stderr for process in processes)
    assert re.search(r"mvrec: error: rank 1 on \S+ \(pid \d+\) is alive but hung at batch 0 of epoch 1", said), said
    # Each of the two speaks when its own clock says so, in either order.
    assert re.search(r"mvrec: rank 1 on \S+ \(pid \d+\) hangs here:\n(.*\n)*?.*step_recorder.py", said), said


@pytest.mark.slow
def test_a_run_in_which_one_process_is_slow_is_left_alone(tiny, tmp_path):
    """It has fewer videos to evaluate, too."""
    for process in started(tiny, tmp_path, batch=1, stop=False, seconds=6.0):
        assert process.wait() == 0, process.stderr
        assert "mvrec: error" not in process.stderr
