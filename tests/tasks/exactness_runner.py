"""One process of many evaluations: `python exactness_runner.py RANK PLAN.json`; see `test_exactness.py`.

The plan is a list of {"world": 3, "port": 4711, "arguments": ["test", ...]}; the process takes part in those whose
world it belongs to, as torchrun would have started it.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mvrec.cli.lightning import run


def main() -> None:
    rank, plan = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(1)
    for step in plan:
        world = step["world"]
        if rank >= world:
            continue
        os.environ |= {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"},
            **{"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(step["port"]), "TORCHELASTIC_RUN_ID": "exactness"},
            "MVREC_PREFLIGHT_SECONDS": "0",  # it counts its runs, of which these processes have unequal numbers
        }
        more = ["--trainer.strategy=ddp", f"--trainer.devices={world}"] if world > 1 else []
        run([*step["arguments"], *more])
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
