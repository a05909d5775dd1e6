"""Runs that were killed, damaged or diverged: the newest good checkpoint, and the truth about it."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from engine_toys import read_metrics, run_toy
from sqr.checkpoint.files import read_weights, write_weights
from sqr.engine.train_loader import batches_of
from sqr.errors import UserError
from sqr.evaluation.finite_outputs import FiniteOutputs


def load(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run_toy(folder, "train.checkpointer.period=3", "train.checkpointer.max_to_keep=9") == 0
    return folder


@pytest.fixture
def stopped(finished, tmp_path):
    """As after a kill: checkpoints 2, 5 and 8, of which the last is tagged."""
    for number in (2, 5, 8):
        shutil.copy(finished / f"model_{number:07d}.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000008.pth")
    return tmp_path


def flip_a_weight(path):
    content = bytearray(path.read_bytes())
    values = load(path)["model"]["box_head.weight"].numpy().tobytes()
    content[content.index(values) + 3] ^= 0x40
    path.write_bytes(content)


def change(path, edit):
    data = load(path)
    edit(data)
    torch.save(data, path)


DAMAGE = {
    "flipped_bit": flip_a_weight,
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:3000]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a checkpoint"),
    "missing": lambda p: p.unlink(),
    "a_list": lambda p: torch.save([1], p),
    "no_model": lambda p: change(p, lambda d: d.pop("model")),
    "no_trainer": lambda p: change(p, lambda d: d.pop("trainer")),
    "iteration_text": lambda p: change(p, lambda d: d["trainer"].update(iteration="8")),
    "negative_samples": lambda p: change(p, lambda d: d["trainer"].update(samples_seen=-4)),
    "no_optimizer": lambda p: change(p, lambda d: d["trainer"].pop("optimizer")),
    "groups_of_text": lambda p: change(p, lambda d: d["trainer"]["optimizer"].update(param_groups=["x"])),
    "names_of_numbers": lambda p: change(p, lambda d: d["trainer"].update(parameter_names=[[1], 2])),
    "state_of_another_shape": lambda p: change(
        p, lambda d: d["trainer"]["optimizer"]["state"][0].update(exp_avg=torch.zeros(2))
    ),
    "nan_moment": lambda p: change(p, lambda d: d["trainer"]["optimizer"]["state"][0]["exp_avg"].fill_(float("nan"))),
    "infinite_weight": lambda p: change(p, lambda d: d["model"]["box_head.weight"].fill_(float("inf"))),
    "expanded": lambda p: change(p, lambda d: d["model"].update(x=torch.zeros(1).expand(10**12))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_resumed(damage, stopped, finished, caplog):
    DAMAGE[damage](stopped / "model_0000008.pth")
    assert run_toy(stopped, "train.checkpointer.period=3", resume=True) == 0
    log = (stopped / "log.txt").read_text()
    assert "cannot resume from" in log and f"Resuming from {stopped}/model_0000005.pth instead" in log
    a, b = load(stopped / "model_final.pth"), load(finished / "model_final.pth")
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in b["model"])


@pytest.mark.parametrize("tag", [None, b"", b"\xff\xfe\x00", b"../model_0000002.pth", b"model_9999999.pth", b"x\ny"])
def test_a_missing_or_broken_tag_does_not_start_from_the_beginning(tag, stopped):
    (stopped / "last_checkpoint").unlink()
    if tag is not None:
        (stopped / "last_checkpoint").write_bytes(tag)
    assert run_toy(stopped, resume=True) == 0
    assert "Training from iteration 9 to 12" in (stopped / "log.txt").read_text()


def test_without_a_good_checkpoint_nothing_is_overwritten(stopped, capsys):
    for path in stopped.glob("model_*.pth"):
        path.write_text("broken")
    assert run_toy(stopped, resume=True) == 1
    error = capsys.readouterr().err
    assert error.count("cannot resume from") == 3 and "Start anew with another train.output_dir" in error
    assert (stopped / "model_0000008.pth").read_text() == "broken"


def settings(path):
    groups = load(path)["trainer"]["optimizer"]["param_groups"]
    return [(g["initial_lr"], g["weight_decay"], tuple(g["betas"])) for g in groups]


def test_settings_given_on_resuming_apply_and_are_recorded(stopped):
    changes = ["optimizer.lr=1e-5", "optimizer.weight_decay=0.5", "optimizer.betas=[0.8,0.99]"]
    assert run_toy(stopped, *changes, resume=True) == 0
    assert (
        settings(stopped / "model_final.pth")
        == [
            (pytest.approx(1e-6), 0.5, (0.8, 0.99)),
            (pytest.approx(1e-6), 0.5, (0.8, 0.99)),
            (1e-5, 0.5, (0.8, 0.99)),
        ][-len(settings(stopped / "model_final.pth")) :]
    )
    assert "Resuming with another lr than the checkpoint's" in (stopped / "log.txt").read_text()
    assert yaml.safe_load((stopped / "config.yaml").read_text())["optimizer"]["lr"] == 1e-5


def test_other_parameter_groups_keep_each_parameters_moments(stopped):
    before = load(stopped / "model_0000008.pth")["trainer"]
    assert (
        run_toy(stopped, "optimizer.lr=0", "+optimizer.params.weight_decay_norm=0", "train.max_iter=10", resume=True)
        == 0
    )
    after = load(stopped / "model_final.pth")["trainer"]
    assert [len(n) for n in after["parameter_names"]] != [len(n) for n in before["parameter_names"]]

    def steps(trainer):
        names = [name for group in trainer["parameter_names"] for name in group]
        return {name: trainer["optimizer"]["state"][i] for i, name in enumerate(names)}

    for name, state in steps(after).items():
        assert (
            state["step"] == steps(before)[name]["step"] + 1
            and state["exp_avg"].shape == steps(before)[name]["exp_avg"].shape
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optimizer._target_=torch.optim.SGD", "optimizer.betas=null"], "error"),
        (["optimizer.lr=-1"], "optimizer: Invalid learning rate"),
        (["optimizer.lr=inf"], "must be a finite number"),
    ],
)
def test_settings_that_cannot_apply_are_refused_and_not_recorded(changes, message, stopped, capsys):
    (stopped / "config.yaml").write_text("as it was")
    assert run_toy(stopped, *changes, resume=True) in (1, 2)
    assert message in capsys.readouterr().err
    assert (stopped / "config.yaml").read_text() == "as it was"


def test_a_complete_run_keeps_its_recorded_config(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    assert run_toy(run, "optimizer.lr=1e-5", resume=True) == 0
    assert (run / "config.yaml").read_text() == (finished / "config.yaml").read_text()


def test_the_seed_of_the_checkpoint_is_recorded(stopped):
    assert run_toy(stopped, "train.seed=77", resume=True) == 0
    assert (
        yaml.safe_load((stopped / "config.yaml").read_text())["train"]["seed"]
        == load(stopped / "model_final.pth")["trainer"]["seed"]
    )


def test_checkpoints_say_which_model_they_are_of(finished):
    for name in ("model_final.pth", "model_best.pth"):
        about = load(finished / name)["about"]
        assert about == {"config": (finished / "config.yaml").read_text(), "class_names": []}


def test_an_interrupted_last_evaluation_is_made_up_for(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    run = tmp_path / "run"
    entries = json.loads((run / "evaluations.json").read_text())
    (run / "evaluations.json").write_text(json.dumps(entries[:-1]))
    assert run_toy(run, resume=True) == 0
    assert [e["iteration"] for e in json.loads((run / "evaluations.json").read_text())] == [3, 7, 11]
    assert json.loads((run / "metrics.json").read_text().splitlines()[-1]).keys() >= {"iteration", "bbox/AP"}


def test_max_to_keep_counts_the_checkpoints_of_the_run_before(stopped):
    assert run_toy(stopped, "train.checkpointer.period=1", "train.checkpointer.max_to_keep=2", resume=True) == 0
    assert sorted(p.name for p in stopped.glob("model_0*.pth")) == ["model_0000010.pth", "model_0000011.pth"]


def test_metrics_of_a_resumed_run_are_those_of_an_uninterrupted_one(stopped, finished):
    lines = (finished / "metrics.json").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["iteration"] != 7]  # an evaluation that was not yet written
    (stopped / "metrics.json").write_text("\n".join(kept)[:-40])  # torn within a row that is run again
    shutil.copy(finished / "evaluations.json", stopped)
    assert run_toy(stopped, "train.checkpointer.period=3", resume=True) == 0

    def numbers(folder):
        text = (folder / "metrics.json").read_text()
        assert "NaN" not in text
        rows = [json.loads(line) for line in text.splitlines()]
        return sorted((row["iteration"], "bbox/AP" in row) for row in rows)

    assert numbers(stopped) == numbers(finished)
    evaluated = [e["iteration"] for e in json.loads((finished / "evaluations.json").read_text())]
    assert evaluated == [i for i, row in sorted(read_metrics(finished).items()) if "bbox/AP" in row] == [3, 7, 11]


def test_a_run_in_the_folder_is_moved_aside_and_a_running_one_is_left_alone(stopped, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_EX); "
         "f.write('process 5'); f.flush(); print('held', flush=True); time.sleep(60)", str(stopped / ".lock")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    for resume in (False, True):
        assert run_toy(stopped, resume=resume) == 1
        assert "process 5 trains into this folder" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    assert (stopped / "model_0000008.pth").exists()
    assert run_toy(stopped, "train.max_iter=1") == 0
    assert sorted(p.name for p in stopped.glob("model_*.pth")) == ["model_best.pth", "model_final.pth"]
    assert (stopped / "earlier_1" / "model_0000008.pth").exists()


@pytest.mark.parametrize("rate", ["1e38", "1e20"])
def test_a_diverged_training_keeps_the_last_good_checkpoint_and_gets_no_ap(rate, tmp_path, capsys):
    assert run_toy(tmp_path, "train.max_iter=3", "train.checkpointer.period=1") == 0
    ok = load(tmp_path / "model_final.pth")["model"]
    changes = [
        f"optimizer.lr={rate}",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=1",
        "train.max_iter=9",
    ]
    assert run_toy(tmp_path, *changes, resume=True) == 1
    error = capsys.readouterr().err
    assert "resume from it with --resume and a lower optimizer.lr" in error and "Traceback" not in error
    for path in tmp_path.glob("model_*.pth"):
        assert all(t.isfinite().all() for t in load(path)["model"].values()), path
    assert (tmp_path / "last_checkpoint").read_text() in {p.name for p in tmp_path.glob("model_*.pth")}
    assert run_toy(tmp_path, "train.max_iter=9", "train.checkpointer.period=1", resume=True) == 0
    assert not torch.equal(ok["box_head.weight"], load(tmp_path / "model_final.pth")["model"]["box_head.weight"])


def test_weights_and_outputs_that_are_not_finite_are_not_evaluated(finished, tmp_path, capsys):
    data = load(finished / "model_final.pth")
    data["model"]["box_head.weight"][0, 0] = float("nan")
    torch.save(data, tmp_path / "nan.pth")
    assert run_toy(tmp_path, f"train.init_checkpoint={tmp_path}/nan.pth", eval_only=True) == 1
    assert "a training that diverged: 1 of 12 tensors are not finite (box_head.weight)" in capsys.readouterr().err
    instances = pytest.importorskip("detectron2.structures").Instances((4, 4))
    instances.scores = torch.tensor([0.5, float("nan")])
    with pytest.raises(UserError, match="image 7: 1 of 2 values of scores are not finite"):
        FiniteOutputs().process([{"image_id": 7}], [{"instances": instances}])


def test_damaged_safetensors_are_found(finished, tmp_path):
    weights = read_weights(str(finished / "model_final.pth")).tensors
    path = tmp_path / "w.safetensors"
    write_weights(str(path), weights)
    assert read_weights(str(path)).tensors.keys() == weights.keys()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="it is damaged, its checksum differs"):
        read_weights(str(path))


def test_a_killed_data_worker_is_one_line():
    def killed():
        yield ["batch"]
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    batches = batches_of(killed())
    assert next(batches) == ["batch"]
    with pytest.raises(UserError, match=r"a data loading process ended .*lower dataloader\.train\.num_workers"):
        next(batches)
