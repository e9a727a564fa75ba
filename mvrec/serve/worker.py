"""One thread that answers requests in turn, with a short queue before it."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

log = logging.getLogger("mvrec")


class StuckError(Exception):
    """Too many answers do not end."""


class QueueFullError(Exception):
    """The queue has no place."""


class Worker:
    """A thread for the network: it computes one answer at a time, so memory does not grow with the requests.

    A thread cannot be ended, so one that an answer keeps for ever is left alone, and another one takes its place.

    Args:
        most_waiting: Requests that may wait; further ones are refused.
        most_stuck: Threads that may be left alone; with more, all requests are refused until one comes back.
    """

    def __init__(self, *, most_waiting: int, most_stuck: int = 2) -> None:
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue(most_waiting)
        self._most_stuck, self._num_stuck = most_stuck, 0
        self._lock = threading.Lock()
        self._answer: Future[Any] | None = None  # that the thread computes
        self._thread: threading.Thread | None = None  # none if all are stuck
        self._begin()

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
        """Put a job at the end of the queue; a cancelled one is skipped.

        Raises:
            QueueFullError: There is no place in the queue.
            StuckError: No thread is left for it.
        """
        if self._num_stuck > self._most_stuck:
            raise StuckError
        answer: Future[Any] = Future()
        try:
            self._jobs.put_nowait((answer, job))
        except queue.Full:
            raise QueueFullError from None
        return answer

    def leave(self, answer: "Future[Any]") -> None:
        """Let another thread compute the following answers if one, which nobody waits for, is still computed."""
        with self._lock:
            if self._answer is not answer:
                return
            self._answer, self._num_stuck = None, self._num_stuck + 1
            log.warning("an answer does not end: the next ones are computed next to it (%d such)", self._num_stuck)
            if self._num_stuck <= self._most_stuck:
                self._begin()
            else:
                self._thread = None

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            answer, job = self._jobs.get()
            if answer.set_running_or_notify_cancel():
                self._answer = answer
                try:
                    answer.set_result(job())
                except BaseException as error:  # the one who waits gets it
                    answer.set_exception(error)
                if not self._goes_on():
                    return
            del answer, job  # the next one may be long in coming

    def _goes_on(self) -> bool:
        """Return whether the thread, which has computed an answer, is to compute the next one."""
        with self._lock:
            if self._thread is None:  # all others are stuck
                self._thread = threading.current_thread()
                self._num_stuck -= 1
            elif self._thread is not threading.current_thread():
                self._num_stuck -= 1
                return False
            self._answer = None
            return True
