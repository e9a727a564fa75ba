"""A child process that crashes, hangs or is killed, and whole messages of arrays between two processes."""

import ctypes
import os
import time

import numpy as np
import pytest
import torch

from mvrec.processes import CAN_FORK, Child, ChildError, Limits, apart, watch

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="needs fork")

LIMITS = Limits(seconds=20.0, memory=None)


def echo(channel):
    while True:
        channel.send(channel.receive())


@pytest.fixture
def child():
    child = Child(echo, LIMITS)
    yield child
    child.kill()


def crash():
    ctypes.string_at(0)


def test_what_crashes_hangs_or_raises_is_told():
    assert apart(os.getpid, limits=LIMITS) != os.getpid()
    with pytest.raises(ChildError, match="was ended by SIGSEGV"):
        apart(crash, limits=LIMITS)
    with pytest.raises(ChildError, match=r"gave no answer for 0\.5 s"):
        apart(time.sleep, 30, limits=Limits(0.5, None))
    with pytest.raises(ChildError, match="ValueError: invalid literal"):
        apart(int, "x", limits=LIMITS)


def test_arrays_and_tensors_of_every_size_arrive_whole_and_writable(child):
    numbers = np.arange(300_000, dtype=np.int32)
    message = {
        "large": numbers,
        "columns": np.asfortranarray(numbers.reshape(300, 1000)),
        "view": torch.from_numpy(numbers).reshape(300, 1000).T,
        "small": torch.arange(3),
        "none": torch.zeros(0, 4),
        **{f"more than go next to one message {n}": np.full(20_000, n) for n in range(20)},
    }
    child.send({**message, "text": "räd"})
    answer = child.receive()
    assert answer.pop("text") == "räd"
    assert answer.keys() == message.keys()
    for name, value in message.items():
        assert type(answer[name]) is type(value), name
        np.testing.assert_array_equal(answer[name], value, strict=True, err_msg=name)
    answer["large"][0] = 7
    answer["view"] += 1


def test_time_counts_only_while_no_answer_has_come(child):
    assert watch([child]) == []
    assert child.waited > 0
    child.send("question")
    assert child.waited == 0
    while not watch([child]):
        pass
    assert child.waited == 0
    assert child.receive() == "question"


def test_a_child_that_is_gone_says_how_it_ended(child):
    os.kill(child.pid, 9)
    with pytest.raises(ChildError, match="was ended by SIGKILL"):
        child.receive()
    assert not child.is_alive
    assert child.is_open
    child.kill()
    assert not child.is_open
