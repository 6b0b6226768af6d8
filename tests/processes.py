"""Run a script in two processes of one machine, as torchrun would."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The interpreter's own end is left out: threads of gloo that wait for it can abort a process whose
# work is done, which says nothing of what a test looks at.
END = """
import os
from accelerate import PartialState
PartialState().destroy_process_group()
os._exit(0)
"""


def run_in_two_processes(source: str, script: Path, *arguments: str) -> None:
    """Write ``source`` to ``script`` and run it twice, side by side, on the CPU.

    Raises:
        AssertionError: with all that was printed, if a process fails.
    """
    script.write_text(source + END)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "PYTHONFAULTHANDLER": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launch += ["--master-addr=127.0.0.1", "--master-port=0", "--rdzv-backend=c10d"]
    launch += ["--rdzv-endpoint=127.0.0.1:0", str(script), *arguments]
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
