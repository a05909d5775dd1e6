"""The Slurm script with stand-ins for srun and scontrol: a real SIGUSR1 saves, requeues and goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine_toys import TOY_CONFIG

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "projects" / "SQR" / "tools" / "slurm_train.sbatch"

# srun starts one task and leaves its process id behind; like Slurm's, it reports a signalled task as 128 + n.
SRUN = """#!/bin/bash
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" &
echo $! > "$FAKE/pid"
wait $!
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$FAKE/calls"
[ "$1" != show ] || echo localhost
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def cluster(tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (fake / name).write_text(text)
        (fake / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{fake}:{os.environ['PATH']}", "FAKE": str(fake), "PYTHON": sys.executable,
        "PYTHONPATH": f"{ROOT}/projects/SQR:{ROOT}/tests", "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1",
    }  # fmt: skip

    def submit(*overrides, **more):
        command = ["bash", str(SCRIPT), "--config-file", TOY_CONFIG, f"train.output_dir={tmp_path / 'out'}"]
        common = ["train.device=cpu", "train.eval_period=0", "train.log_period=1"]
        return subprocess.Popen(
            [*command, *common, *overrides], env={**environment, **more}, cwd=ROOT, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    return submit, fake


@pytest.mark.slow
def test_the_signal_before_the_time_limit_requeues_and_the_next_start_resumes(cluster, tmp_path):
    submit, fake = cluster
    job = submit("train.max_iter=1000000", "train.checkpointer.period=1000000")
    try:
        deadline, metrics = time.monotonic() + 300, tmp_path / "out" / "metrics.json"
        while not metrics.exists() or not metrics.stat().st_size:
            assert job.poll() is None and time.monotonic() < deadline, "training did not start"
            time.sleep(0.2)
        os.kill(int((fake / "pid").read_text()), signal.SIGUSR1)
        err = job.communicate(timeout=200)[1]
    finally:
        job.kill()
    assert job.returncode == 0, err
    assert "error: stopped by SIGUSR1 after" in err and "Traceback" not in err
    assert (fake / "calls").read_text().splitlines() == ["show hostnames node[1-2]", "requeue 4711"]
    done = int((tmp_path / "out" / "last_checkpoint").read_text()[6:13]) + 1

    job = submit(f"train.max_iter={done + 2}")
    err = job.communicate(timeout=200)[1]
    assert job.returncode == 0, err
    assert "requeue" not in (fake / "calls").read_text().splitlines()[-1]
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert final["iteration"] == done + 1 and final["trainer"]["samples_seen"] == 4 * (done + 2)


@pytest.mark.parametrize("code", [1, 2, 143])
def test_an_error_or_a_preemption_is_not_requeued_by_the_script(cluster, code):
    submit, fake = cluster
    (fake / "python").write_text(f"#!/bin/bash\nexit {code}\n")
    (fake / "python").chmod(0o755)
    job = submit(PYTHON=str(fake / "python"))
    job.communicate(timeout=60)
    assert job.returncode == code
    assert (fake / "calls").read_text().splitlines() == ["show hostnames node[1-2]"]


def test_the_script_asks_slurm_for_the_signal_and_for_requeueing():
    text = SCRIPT.read_text()
    for line in ("#SBATCH --signal=USR1@180", "#SBATCH --requeue", "#SBATCH --open-mode=append"):
        assert line in text.splitlines()
    assert 128 + signal.SIGUSR1 == 138 and '"$code" -eq 138' in text
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
