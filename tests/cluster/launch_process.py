"""One process of a launch: `launch_process.py JSON` prints the report of its check; see `test_launch_check.py`."""

import json
import os
import signal
import sys

import torch

from mvrec.cluster import launch_check
from mvrec.cluster.launch import Launch


def main(launch: dict, *, seconds: float, stops_at: str, register_share: float) -> None:
    launch_check._REGISTER_SHARE = register_share

    def on_stage(stage):
        if stage == stops_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    report = launch_check.check_launch(Launch(**launch), timeout_seconds=seconds, backend="gloo", on_stage=on_stage)
    assert not torch.distributed.is_initialized() or not report.ok
    print(json.dumps(report.as_dict()), flush=True)  # noqa: T201
    os._exit(0)  # threads may hang for good


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
