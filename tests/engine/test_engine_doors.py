"""What a Detectron2 user brings along: a loader and hooks of their own."""

from engine_toys import TOY_CONFIG, run_toy

CONFIG = f"""
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader
from engine_toys import CountingHook, ToyMapper, toy_dicts
from sqr.config import load_config

cfg = load_config({TOY_CONFIG!r})
cfg.dataloader.train = L(build_detection_train_loader)(
    dataset=L(toy_dicts)(), mapper=L(ToyMapper)(), total_batch_size=4, aspect_ratio_grouping=False
)
cfg.train.hooks = [L(CountingHook)(path="PATH")]
"""


def test_detectron2s_loader_and_own_hooks(tmp_path, capsys):
    file, run = tmp_path / "own.py", tmp_path / "run"
    file.write_text(CONFIG.replace("PATH", str(tmp_path / "count")))
    assert run_toy(run, "train.max_iter=3", config=str(file)) == 0
    assert (tmp_path / "count").read_text() == "3"
    assert run_toy(run, "train.max_iter=5", config=str(file), resume=True) == 0
    assert (tmp_path / "count").read_text() == "2"
    assert "cannot be entered at sample 12: the resumed run draws other images" in (run / "log.txt").read_text()
    assert run_toy(run, "train.hooks=[3]", config=str(file)) == 1
    assert "train.hooks.0 is a int, not a detectron2.engine.HookBase" in capsys.readouterr().err
