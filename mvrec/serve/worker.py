"""One thread that answers requests in turn, with a short queue before it."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class QueueFullError(Exception):
    """The queue has no place."""


class Worker:
    """A thread for the network: it computes one answer at a time, so memory does not grow with the requests.

    Args:
        most_waiting: Requests that may wait; further ones are refused.
    """

    def __init__(self, *, most_waiting: int) -> None:
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue(most_waiting)
        threading.Thread(target=self._run, name="answers", daemon=True).start()

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
        """Put a job at the end of the queue; a cancelled one is skipped.

        Raises:
            QueueFullError: There is no place in the queue.
        """
        answer: Future[Any] = Future()
        try:
            self._jobs.put_nowait((answer, job))
        except queue.Full:
            raise QueueFullError from None
        return answer

    def _run(self) -> None:
        while True:
            answer, job = self._jobs.get()
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(job())
                except BaseException as error:  # the one who waits gets it
                    answer.set_exception(error)
            del answer, job  # the next one may be long in coming
