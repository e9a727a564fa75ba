"""One process of a launch: `launch_process.py JSON` prints the reports of its checks; see `test_launch_check.py`."""

import json
import os
import signal
import sys
import time

import torch

from mvrec.cluster import launch_check
from mvrec.cluster.launch import Launch


def main(launch: dict, *, seconds: float, at: str, do: str, times: int, register_share: float) -> None:
    launch_check._REGISTER_SHARE = register_share

    def on_stage(stage):
        if stage == at and do == "sleep":
            time.sleep(600)
        elif stage == at:
            os.kill(os.getpid(), {"stop": signal.SIGSTOP, "die": signal.SIGKILL}[do])

    checks = {"timeout_seconds": seconds, "backend": "gloo", "on_stage": on_stage}
    reports = [launch_check.check_launch(Launch(**launch), **checks) for _ in range(times)]
    assert not torch.distributed.is_initialized() or not reports[-1].ok
    print(json.dumps([report.as_dict() for report in reports]), flush=True)  # noqa: T201
    os._exit(0)  # threads may hang for good


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
