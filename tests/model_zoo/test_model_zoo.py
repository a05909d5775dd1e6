"""The model zoo's four names."""

import pytest
import torch

from sqr import catalog as zoo
from sqr import model_zoo

CONFIG = """
from detectron2.config import LazyCall as L
from engine_toys import ToyDetector

model = L(ToyDetector)(channels=5)
train = dict(init_checkpoint="", device="cpu")
"""


@pytest.fixture
def toy_zoo(tmp_path, monkeypatch):
    for name in ("quick/toy.py", "common/train.py", "models/part.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(CONFIG)
    monkeypatch.setattr(zoo, "configs_folder", lambda: tmp_path)
    monkeypatch.setattr(zoo, "CHECKPOINTS", {})
    return tmp_path


def test_names_with_and_without_suffix(toy_zoo):
    assert model_zoo.get_config_file("quick/toy") == model_zoo.get_config_file("quick/toy.py")
    assert model_zoo.get_config("quick/toy").model.channels == 5
    assert zoo.config_names() == ["quick/toy"]


def test_unknown_name_suggests(toy_zoo):
    with pytest.raises(ValueError, match="no config 'quick/toi'; the nearest are quick/toy"):
        model_zoo.get_config_file("quick/toi")


def test_untrained_model_is_built_and_a_missing_checkpoint_is_never_a_random_model(toy_zoo):
    assert model_zoo.get("quick/toy", device="cpu").box_head.weight.shape == (4, 5)
    for call in (
        lambda: model_zoo.get("quick/toy", trained=True),
        lambda: model_zoo.get_config("quick/toy", trained=True),
        lambda: model_zoo.get_checkpoint_url("quick/toy"),
    ):
        with pytest.raises(ValueError, match="no trained checkpoint of 'quick/toy'; there are: none yet"):
            call()


def test_trained_model_has_the_checkpoints_weights(toy_zoo, monkeypatch):
    source = model_zoo.get("quick/toy", device="cpu")
    torch.save({"model": source.state_dict()}, toy_zoo / "toy.pth")
    monkeypatch.setitem(zoo.CHECKPOINTS, "quick/toy", str(toy_zoo / "toy.pth"))
    model = model_zoo.get("quick/toy.py", trained=True, device="cpu")
    assert torch.equal(model.box_head.weight, source.box_head.weight) and not model.training
    assert model_zoo.get_config("quick/toy", trained=True).train.init_checkpoint == str(toy_zoo / "toy.pth")
    (toy_zoo / "toy.pth").unlink()
    with pytest.raises(ValueError, match="no such file"):
        model_zoo.get("quick/toy", trained=True, device="cpu")


def test_the_repositorys_configs_are_found():
    assert (zoo.configs_folder() / "common" / "train.py").is_file()
