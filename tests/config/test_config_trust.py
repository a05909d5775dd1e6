"""A YAML config is data: nothing in it runs, and it cannot fill the memory."""

import os
import time

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import OmegaConf

from engine_toys import TOY_CONFIG, run_toy
from helpers import ROOT
from sqr import Predictor
from sqr.cli import analyze, convert, export, predict, train
from sqr.config import allow_targets, load_config, save_config
from sqr.config.loading import calls
from sqr.config.trust import VARIABLE, trusted_target
from sqr.config.yaml_files import parse_yaml_config
from sqr.errors import UsageError, UserError

# What a stranger may try; each of them would leave a file where MARKER stands.
ATTACKS = {
    "apply": "!!python/object/apply:os.system ['touch MARKER']",
    "new": "!!python/object/new:os.system ['touch MARKER']",
    "target": "{_target_: os.system, command: touch MARKER}",
    "nested": "[{a: {b: {_target_: os.system, command: touch MARKER}}}]",
    "subprocess": "{_target_: subprocess.Popen, args: [touch, MARKER]}",
    "through_a_package": "{_target_: torch.os.system, command: touch MARKER}",
    "through_a_module": "{_target_: detectron2.data.build.os.system, command: touch MARKER}",
    "target_of_a_target": "{_target_: {_target_: detectron2.utils.registry.locate, name: os.system}, command: x}",
    "target_by_reference": "{_target_: '${text}', command: touch MARKER}",
    "resolver": "${oc.create:{_target_:os.system,command:'touch MARKER'}}",
    "locate": "{_target_: detectron2.utils.registry.locate, name: os.system}",
    "python_file": "{_target_: detectron2.config.LazyConfig.load, filename: CODE}",
    "zoo_file": "{_target_: sqr.config.load_config, name: CODE}",
    "pickle": "{_target_: torch.load, f: MARKER, weights_only: false}",
    "hub": "{_target_: torch.hub.load, repo_or_dir: ., model: x, source: local}",
    "compile": "{_target_: torch.utils.cpp_extension.load_inline, name: x, cpp_sources: ''}",
    "dunder": "{_target_: torch.nn.Module.__init__.__globals__}",
    "function_as_value": "!!python/name:os.system",
    "builtin": "{_target_: builtins.exec, source: 'open(\"MARKER\", \"w\")'}",
    "ordered_map": "!!omap [a: {_target_: os.system, command: touch MARKER}]",
    "pairs": "!!pairs [a: {_target_: os.system, command: touch MARKER}]",
    "write_a_table": "{_target_: sqr.evaluation.table_output.write_csv, path: MARKER, summary: {}}",
    "write_predictions": "{_target_: sqr.evaluation.storage.write_meta, directory: MARKER, meta: {}}",
    "delete_predictions": "{_target_: sqr.evaluation.StageEvaluator, dataset_name: x, output_dir: MARKER}",
    "write_elsewhere": "{_target_: sqr.evaluation.BoxEvaluator, dataset_name: x, output_dir: MARKER}",
    "unpickle_proposals": "{_target_: detectron2.data.get_detection_dataset_dicts, names: x, proposal_files: [MARKER]}",
    "unpickle_by_config": "{_target_: detectron2.data.build_detection_test_loader, cfg: {DATASETS: {TEST: [x]}}}",
    "strings_of_mmengine": "{_target_: detectron2.modeling.mmdet_wrapper.MMDetBackbone, backbone: {type: os.system}}",
    "a_method": "{_target_: torch.nn.Module.load_state_dict, self: x, state_dict: {}}",
    "train": "{_target_: sqr.train, name: CODE}",
    "jit": "{_target_: torch.jit.load, f: MARKER}",
    "elastic": "{_target_: torch.distributed.run.main, args: [MARKER]}",
    "inductor": "{_target_: torch._inductor.codecache.PyCodeCache.load, source_code: ''}",
    "download": "{_target_: torchvision.datasets.utils.download_and_extract_archive, url: x, download_root: MARKER}",
    "partial": "{_target_: functools.partial, _partial_: true, _args_: [os.system, touch MARKER]}",
    "environment": "{_target_: detectron2.utils.env.setup_custom_environment, custom_module: CODE}",
    "leaked_variable": "'${oc.env:HOME}'",
    "leaked_by_path": "'${oc.select:${oc.env:HOME}}'",
    "write_a_file": "{_target_: detectron2.data.datasets.convert_to_coco_json, dataset_name: x, output_file: MARKER}",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy_yaml(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    save_config(load_config(TOY_CONFIG), str(path))
    return path.read_text()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_runs_from_a_config(attack, toy_yaml, tmp_path):
    marker, code = tmp_path / "marker", tmp_path / "code.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n")
    value = ATTACKS[attack].replace("MARKER", str(marker)).replace("CODE", str(code))
    (tmp_path / "config.yaml").write_text(f"{toy_yaml}\ntext: os.system\nextra: {value}\n")
    with pytest.raises(UsageError, match=r"config\.yaml"):
        load_config(str(tmp_path / "config.yaml"))
    assert not marker.exists()


@pytest.fixture
def hostile_run(toy_yaml, tmp_path):
    """A run folder whose config executes a command on every unsafe way of loading it."""
    folder = tmp_path / "run"
    folder.mkdir()
    text = f"{toy_yaml}\nextra: !!python/object/apply:os.system ['touch {tmp_path}/marker']\n"
    (folder / "config.yaml").write_text(text)
    torch.save({"model": {"decoder.stages.0.x": torch.zeros(2)}, "iteration": 1}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder


def test_every_command_reads_a_run_folder_as_data(hostile_run, tmp_path, capsys):
    config, weights = str(hostile_run / "config.yaml"), str(hostile_run / "model_final.pth")
    commands = [
        (predict.main, ["x.png", "--run", str(hostile_run), "--output", str(tmp_path / "o")]),
        (export.main, ["--run", str(hostile_run), "--output", str(tmp_path / "m.pt2")]),
        (convert.main, ["shrink", weights, str(tmp_path / "small.pth")]),
        (train.main, ["--config-file", config, "--eval-only", f"train.init_checkpoint={weights}"]),
        (analyze.main, ["--config-file", config, "--output", str(tmp_path / "a"), f"train.init_checkpoint={weights}"]),
    ]
    for main, arguments in commands:
        if main is predict.main:
            (tmp_path / "x.png").write_bytes((ROOT / "docs/images").glob("*.png").__next__().read_bytes())
            arguments[0] = str(tmp_path / "x.png")
        assert main(arguments) in (1, 2), arguments
        assert "could not determine a constructor" in capsys.readouterr().err, arguments
    with pytest.raises(UserError, match="could not determine a constructor"):
        Predictor.from_run(hostile_run)
    assert not (tmp_path / "marker").exists()


def test_a_user_allows_names_by_a_switch(toy_yaml, tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text(toy_yaml)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UsageError, match=r"may not call engine_toys\.\w+.*--allow-target engine_toys"):
        load_config(str(path))
    allow_targets("engine_toys.ToyMapper")
    with pytest.raises(UsageError, match=r"may not call engine_toys\.(?!ToyMapper)"):
        load_config(str(path))
    for inside in (
        "engine_toys.os.system",
        "engine_toys.random.Random",
        "engine_toys.train.main",
        "engine_toys.__dict__",
    ):
        with pytest.raises(UsageError, match=r"may not call|cannot be imported"):
            trusted_target(inside, "of an allowed package")
    out = tmp_path / "out"
    assert (
        run_toy(out, "--allow-target", "engine_toys", "train.max_iter=1", "train.eval_period=0", config=str(path)) == 0
    )
    assert os.environ[VARIABLE] == "engine_toys.ToyMapper,engine_toys"


def doubling(line: str, start: str) -> str:
    return f"a0: {start}\n" + "".join(line.format(n=n, m=n - 1) for n in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
        doubling("a{n}: '${{a{m}}}${{a{m}}}'\n", "xxxxxxxxxx"),
        doubling("a{n}: ['${{a{m}}}', '${{a{m}}}']\n", "[x]"),
        doubling("a{n}: {{p: '${{..a{m}}}', q: '${{..a{m}}}'}}\n", "[x]"),
        "a: &a [*a]\n", "a: ${b}\nb: ${a}\n", "a: {b: '${a}'}\n", "a: " + "[" * 100 + "]" * 100, "a: " + "9" * 100_000,
        "a: 2024-99-99\n", "a: 1\na: 2\n", "[1, 2]\n", "", "a: \x00\n", "{[a]: 1}\n", "a: !!binary x\n",
    ],
)  # fmt: skip
def test_bombs_and_nonsense_are_refused_at_once(text):
    started = time.process_time()
    with pytest.raises(UsageError, match="bomb"):
        parse_yaml_config(text, "bomb")
    assert time.process_time() - started < 5


def test_a_large_file_is_not_read(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"a: 1\n" + b"#" * 3_000_000)
    with pytest.raises(UsageError, match="a config has at most 2000000"):
        load_config(str(tmp_path / "c.yaml"))


def test_references_between_keys_stay_references():
    cfg = parse_yaml_config(
        "a: {b: 3, c: '${.b}'}\nd: ['${a}', '${a.b}_x']\ne: '${d[0].c}'\nf: !!python/tuple [1]", "c"
    )
    assert cfg.d[0].c == cfg.e == 3 and OmegaConf.to_container(cfg)["a"]["c"] == "${.b}" and cfg.f == [1]


def test_no_shipped_config_needs_the_switch(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    names = set()
    for path in ROOT.glob("configs/[!c]*/*[!0-9]shapes.py"), ROOT.glob("configs/*/*r50*ep.py"):
        for config in sorted(path)[::3]:
            names |= {node._get_node("_target_")._value() for _, node in calls(LazyConfig.load(str(config)), "")}
    assert len(names) > 30
    for target in names:
        trusted_target(_convert_target_to_string(target) if callable(target) else target, "config")
