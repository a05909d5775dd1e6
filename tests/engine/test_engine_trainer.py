"""The training loop: what it logs, how it stops, and errors on one line with the right exit code."""

import json

import pytest
import torch
from detectron2.utils.events import EventStorage

from engine_toys import ToyDetector, ToyMapper, read_metrics, run_toy, toy_dicts
from sqr.decoder import RecollectingDecoder
from sqr.engine import ConsoleWriter, Trainer, build_train_loader
from sqr.errors import NonFiniteError, UserError


def one_error_line(capsys):
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    return lines[0]


def make_trainer(model=None, **options):
    model = model or ToyDetector()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=4)
    return Trainer(model, loader, optimizer, seed=1, **options)


def test_all_losses_reach_json_and_tensorboard_and_the_console_is_one_folded_line(tmp_path):
    assert run_toy(tmp_path, "train.log_period=3") == 0
    metrics = read_metrics(tmp_path)
    names = {f"loss_{kind}/stage{s}" for kind in ("class", "box") for s in (1, 2)}
    assert names | {"total_loss", "lr", "grad_norm", "time", "data_time"} <= metrics[5].keys()
    assert metrics[8]["lr"] == pytest.approx(2e-4)  # the base rate, not the backbone's
    assert metrics[7]["bbox/AP"] == metrics[11]["bbox/AP"] == 5.0
    lines = [x for x in (tmp_path / "log.txt").read_text().splitlines() if "iter: 5/12 " in x]
    assert len(lines) == 1
    for part in (
        "eta: ",
        "total_loss: ",
        "class: ",
        "box: ",
        "stage2: ",
        "grad_norm: ",
        "lr: 0.0002",
        "time: ",
        " s/it  data: ",
        "max_mem: ",
    ):
        assert part in lines[0]
    assert "loss_class/stage1" not in lines[0] and len(lines[0]) < 220
    assert "copypaste: AP,AP50" in (tmp_path / "log.txt").read_text()
    assert list(tmp_path.glob("events.out.tfevents*"))
    header = [line.split(":")[0] for line in (tmp_path / "config.yaml").read_text().splitlines()[:3]]
    assert header == ["# command", "# versions", "# git"]
    environment = (tmp_path / "environment.txt").read_text()
    assert all(word in environment for word in ("command: ", "versions: sqr ", "git: ", "PyTorch"))


def test_console_folds_by_kind_and_last_stage():
    with EventStorage() as storage:
        for stage in (1, 2, 10):
            storage.put_scalars(**{f"loss_class/stage{stage}": stage, f"loss_box/stage{stage}": 1.0})
        storage.put_scalars(**{"loss_class/encoder": 100.0, "total_loss": 116.0})
        folded = ConsoleWriter(max_iter=5).folded_losses(storage)
    assert folded == {"total_loss": 116.0, "class": 113.0, "box": 3.0, "stage10": 11.0}


def test_an_iteration_has_one_console_line(monkeypatch):
    writer = ConsoleWriter(max_iter=5)
    lines = []
    monkeypatch.setattr(writer.logger, "info", lines.append)
    with EventStorage() as storage:
        storage.put_scalars(total_loss=1.0)
        writer.write()
        writer.write()  # as when a run is stopped right after a line, before any iteration was timed
        storage.iter = 1
        writer.write()
    assert len(lines) == 2


def test_gradients_are_clipped_to_the_global_norm():
    model = ToyDetector()
    before = [p.detach().clone() for p in model.parameters()]
    trainer = make_trainer(model, max_grad_norm=0.1)
    trainer.train(0, 1)
    moved = torch.stack([(a - b).norm() for a, b in zip(before, model.parameters(), strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3 * 0.1, rel=1e-3)


def test_a_sampled_plan_is_drawn_by_seed_and_iteration(monkeypatch):
    class Recollecting(ToyDetector):
        def __init__(self):
            super().__init__()
            self.decoder = RecollectingDecoder(stages=[torch.nn.Identity() for _ in range(6)], plan={"name": "sampled"})
            self.seen = []

        def forward(self, batched_inputs, **options):
            self.seen.append(self.decoder.active_plan)
            return super().forward(batched_inputs, **options)

    def plans(start, end, rank=0, **options):
        trainer = make_trainer(Recollecting(), **options)
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
        trainer.train(start, end)
        return trainer.model.seen

    whole = plans(0, 6)
    assert len(set(whole)) > 1 and plans(3, 6) == whole[3:]  # as after a resume
    assert plans(0, 6, rank=1) == whole  # as in another process
    assert plans(0, 3, accumulation_steps=2) == [plan for plan in whole[:3] for _ in range(2)]


def test_one_transfer_to_the_host_an_iteration(monkeypatch):
    trainer = make_trainer(max_grad_norm=0.1)
    calls = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, f=original, n=name: (calls.append(n), f(t))[1])
    original_forward = trainer.model.forward

    def forward(data):
        losses = original_forward(data)
        calls.clear()  # whatever the model and the loader do is theirs
        return losses

    trainer.model.forward = forward
    trainer.train(0, 1)
    assert calls.count("tolist") == 1
    assert not {"item", "__float__", "__bool__"} & set(calls)


def test_bfloat16_autocast_trains_on_cpu(tmp_path):
    assert run_toy(tmp_path, "train.amp.enabled=True", "train.max_iter=3") == 0


def test_non_finite_loss_names_iteration_and_images_and_spares_the_weights(tmp_path, capsys):
    assert run_toy(tmp_path, "+model.explode_on=104", "train.checkpointer.period=1", "train.eval_period=0") == 1
    error = one_error_line(capsys)
    assert "the loss is not finite (loss_box/stage2=nan); image ids " in error and "104" in error
    iteration = int(error.split("iteration ")[1].split(":")[0])
    last = (tmp_path / "last_checkpoint").read_text()
    assert iteration > 1 and last == f"model_{iteration - 2:07d}.pth"  # whose weights gave a finite loss
    assert f"The last good checkpoint is {last}: resume from it with --resume and a lower optimizer.lr" in error
    state = torch.load(tmp_path / last, weights_only=True)["model"]
    assert all(v.isfinite().all() for v in state.values())


def test_non_finite_gradients_under_finite_losses_are_an_error():
    class Steep(ToyDetector):
        def forward(self, batched_inputs):
            weight = self.box_head.weight
            return {"loss_a/stage1": (weight - weight.detach()).abs().sum().sqrt()}

    with pytest.raises(UserError, match="iteration 0: the gradients are not finite though every loss is"):
        make_trainer(Steep()).train(0, 1)


@pytest.mark.parametrize("kind", [NonFiniteError, UserError])
def test_checks_of_the_model_get_iteration_and_images(kind):
    class Failing(ToyDetector):
        def forward(self, batched_inputs):
            raise kind("stage 2, group 0: a cost is not finite")

    with pytest.raises(UserError, match=r"iteration 0, image ids \d+, .*: stage 2, group 0: a cost is not finite"):
        make_trainer(Failing()).train(0, 1)


@pytest.mark.parametrize("kind", [KeyError, ValueError])
def test_programming_errors_keep_their_type(kind):
    class Broken(ToyDetector):
        def forward(self, batched_inputs):
            raise kind("oops")

    with pytest.raises(kind, match="oops"):
        make_trainer(Broken()).train(0, 1)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["train.max_iters=5"], 2, "did you mean train.max_iter"),
        (["train.device=cuda"], 2, "no usable CUDA device; use train.device=cpu"),
        (["train.device=gpu"], 2, "not a device; use cpu, cuda or cuda:N"),
        (["train.init_checkpoint=/nowhere/a.pth"], 1, "/nowhere/a.pth: no such file"),
        (["optimizer.params.lr_multipliers={nothing:0.1}"], 1, "no parameter is named 'nothing'"),
        (["train.amp.enabled=True", "train.amp.dtype=half"], 2, "must be one of bfloat16, float16"),
        (
            ["train.amp.enabled=True", "train.amp.dtype=float16"],
            2,
            "float16 needs a GPU (train.device=cpu); use train.amp.dtype=bfloat16",
        ),
        (["train.accumulation_steps=3"], 2, "train.accumulation_steps=3 must divide the batch of a process, 4"),
        (["train.max_epochs=0"], 2, "train.max_epochs=0: must be a positive number"),
        (["train.max_iter=5", "train.max_epochs=1"], 2, "train.max_iter=5 and train.max_epochs=1 are both set"),
        (["train.max_iter=null"], 2, "train.max_iter and train.max_epochs are both null"),
        (["train.ema.enabled=True", "train.ema.decay=1"], 1, "train.ema.decay=1: must be at least 0 and less than 1"),
        (["train.best_checkpoint.mode=most"], 2, "train.best_checkpoint.mode=most: must be max or min"),
        (["train.early_stopping.patience=2", "train.eval_period=0"], 2, "counts evaluations, but train.eval_period=0"),
        (["train.early_stopping.patience=0"], 2, "train.early_stopping.patience=0: must be a whole number, at least 1"),
        (
            ["dataloader.train.mapper._target_=engine_toys.BrokenMapper"],
            1,
            "cannot load the training image toy_4.png",
        ),
    ],
)
def test_user_errors_are_one_line_with_an_exit_code(tmp_path, capsys, overrides, code, message):
    if "cuda" in overrides[0] and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert run_toy(tmp_path, *overrides) == code
    assert message in one_error_line(capsys)


def test_unwritable_output_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_toy(tmp_path / "file" / "out") == 1
    assert "train.output_dir: " in one_error_line(capsys)


def test_full_disk_at_checkpoint_time_keeps_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    from sqr.checkpoint import checkpointer

    real, saves = torch.save, []

    def save(data, file):
        saves.append(1)
        real(data, file)
        if len(saves) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointer.torch, "save", save)
    assert run_toy(tmp_path, "train.eval_period=0") == 1
    error = one_error_line(capsys)
    assert "model_0000009.pth: [Errno 28] No space left on device" in error
    assert "model_0000004.pth is complete" in error and "--resume" in error
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert sorted(p.name for p in tmp_path.glob("*.pth*")) == ["model_0000004.pth"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_eval_only_adds_results_and_leaves_the_runs_config_alone(tmp_path, capsys):
    assert run_toy(tmp_path, "train.max_iter=2", "train.eval_period=0") == 0
    config = (tmp_path / "config.yaml").read_text()
    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    assert run_toy(tmp_path, weights, eval_only=True) == 0
    assert (tmp_path / "config.yaml").read_text() == config
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert last == {"bbox/AP": 5.0, "bbox/AP50": None, "checkpoint": f"{tmp_path}/model_final.pth"}
    capsys.readouterr()
    assert run_toy(tmp_path, eval_only=True) == 1
    assert "--eval-only needs the weights to evaluate: train.init_checkpoint=PATH" in one_error_line(capsys)


def test_saved_config_reproduces_the_run(tmp_path):
    assert run_toy(tmp_path / "a", "train.max_iter=4", "train.seed=-1") == 0  # a drawn seed is recorded
    assert run_toy(tmp_path / "b", config=str(tmp_path / "a" / "config.yaml")) == 0
    a, b = (torch.load(tmp_path / x / "model_final.pth", weights_only=True)["model"] for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
