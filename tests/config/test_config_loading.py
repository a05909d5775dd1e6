"""Configs: strict overrides, calls checked before anything is built, saved configs load back."""

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from engine_toys import TOY_CONFIG, ToyDetector
from sqr.config import apply_overrides, check_calls, load_config, save_config
from sqr.errors import UsageError


def load(*overrides):
    return load_config(TOY_CONFIG, overrides)


def test_overrides_are_parsed_like_detectron2s():
    overrides = [
        "train.max_iter=7", "optimizer.lr=1e-3", "optimizer.betas=[0.8,0.9]", "train.amp.enabled=true",
        "train.init_checkpoint=detectron2://a/b.pkl", "train.clip_grad.max_norm=null", "train.output_dir='a b'",
    ]  # fmt: skip
    expected = LazyConfig.apply_overrides(LazyConfig.load(TOY_CONFIG), list(overrides))
    assert OmegaConf.to_container(load(*overrides)) == OmegaConf.to_container(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iters=5", r"unknown key train\.max_iters; did you mean train\.max_iter"),
        ("max_iter=5", r"did you mean train\.max_iter"),
        ("optimiser.lr=1", r"unknown key optimiser\.lr; did you mean optimizer\.lr\?"),
        ("train.max_iter.x=5", "unknown key"),
        ("zzz=5", r"no key of the config is near it \(\+zzz=\.\.\. adds a new key\)"),
        ("train=5", r"train is a section; set one of its keys \(train\.output_dir"),
        ("train.max_iter=many", r"train\.max_iter takes a number \(it is 12\)"),
        ("train.amp.enabled=perhaps", "takes true or false"),
        ("train.max_iter", "write key=value"),
        ("train.output_dir=[a", "cannot be parsed"),
        ("~train.max_iter=5", "keys cannot be removed"),
        ("train.max_iter=0", r"train\.max_iter=0: must be a whole number, at least 1"),
        ("train.checkpointer.period=0", r"train\.checkpointer\.period=0: must be"),
        ("train.max_iter=2.5", r"train\.max_iter=2\.5: must be a whole number"),
        ("+model.chanels=5", r"ToyDetector has no argument chanels; did you mean model\.channels\?"),
        ("+model.channels=five", r"model\.channels='five': must be of type int"),
        ("+dataloader.train.batch=5", r"build_train_loader has no argument batch; it takes dataset"),
        ("model._target_=engine_toys.Nothing", "cannot be imported"),
    ],
)  # fmt: skip
def test_wrong_override_is_one_clear_error(override, message):
    with pytest.raises(UsageError, match=message):
        load(override)


def test_plus_adds_and_whole_floats_become_counts():
    cfg = load("+model.channels=5", "+note.text=hello", "train.max_iter=1e2")
    assert (cfg.model.channels, cfg.note.text, cfg.train.max_iter) == (5, "hello", 100)
    assert type(cfg.train.max_iter) is int


def test_items_of_lists_and_keys_behind_interpolations():
    cfg = OmegaConf.create({"a": {"b": [{"c": 1}, 2]}, "d": "${a.b}", "e": "${a}"})
    apply_overrides(cfg, ["a.b.0.c=3", "d.0.c=4"])
    assert cfg.d[0].c == 4
    with pytest.raises(UsageError, match=r"unknown key a\.b\.5"):
        apply_overrides(cfg, ["a.b.5=1"])
    with pytest.raises(UsageError, match=r"unknown key e\.x"):
        apply_overrides(cfg, ["e.x=1"])


def test_missing_argument_is_found_before_building():
    cfg = load()
    del cfg.dataloader.train.mapper
    with pytest.raises(UsageError, match=r"dataloader\.train: .*build_train_loader needs the argument mapper"):
        check_calls(cfg)


def test_calls_inside_lists_are_checked():
    with pytest.raises(UsageError, match=r"x\.1: .*unexpected|x\.1\.colour: .*has no argument colour"):
        check_calls(OmegaConf.create({"x": [1, L(ToyDetector)(colour=1)]}, flags={"allow_objects": True}))


def test_saved_config_loads_back_and_is_the_same(tmp_path):
    cfg = load("train.max_iter=7", "+model.channels=5")
    save_config(cfg, str(tmp_path / "config.yaml"))
    again = load_config(str(tmp_path / "config.yaml"))
    assert again.optimizer.params.base_lr == again.optimizer.lr == 2e-4
    assert isinstance(instantiate(again.model), ToyDetector)
    save_config(again, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "give a config with --config-file"),
        ("quick/nothing_like_it", "no such file, and the model zoo has no config 'quick/nothing_like_it'"),
        (__file__.replace(".py", ".txt"), "no such file"),
    ],
)
def test_unknown_config(name, message):
    with pytest.raises(UsageError, match=message):
        load_config(name)


def test_config_without_a_section_or_with_broken_syntax(tmp_path):
    (tmp_path / "a.py").write_text("train = dict(max_iter=1)\n")
    with pytest.raises(UsageError, match="defines no model, dataloader, optimizer, lr_multiplier; "):
        load_config(str(tmp_path / "a.py"))
    (tmp_path / "b.py").write_text("train = dict(\n")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_config(str(tmp_path / "b.py"))
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(UsageError, match=r"a config is a \.py or \.yaml file"):
        load_config(str(tmp_path / "c.json"))


def test_a_class_of_the_config_file_is_refused_before_anything_runs(tmp_path):
    file = tmp_path / "own.py"
    source = "from detectron2.config import LazyCall as L\nfrom torch import nn\n"
    source += f"from sqr.config import load_config\ncfg = load_config({TOY_CONFIG!r})\n"
    source += "class Own(nn.Module):\n    pass\ncfg.model = L(Own)()\n"
    file.write_text(source)
    with pytest.raises(UsageError, match=r"model: Own is defined in the config file.*put it into a module"):
        load_config(str(file))
