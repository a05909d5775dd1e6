"""The ``sqr`` command: its list, its errors, configs of one's own, and how light it starts."""

import subprocess
import sys

import pytest

from engine_toys import TOY_CONFIG
from sqr import api
from sqr.cli import configs, main, train
from sqr.cli.options import PARSERS, train_parser
from sqr.config import load_run_config
from sqr.errors import UsageError

START = """
import sys
from sqr.cli.main import main
for arguments in {arguments!r}:
    try:
        code = main(arguments)
    except SystemExit as stop:  # of argparse
        code = stop.code
    heavy = [m for m in ("torch", "detectron2", "matplotlib") if m in sys.modules]
    assert code == 0 and not heavy, (arguments, code, heavy)
"""


LIGHT = [["--help"], ["configs", "ls"], ["check", "--help"], *([name, "--help"] for name in PARSERS)]


def test_lists_and_help_are_printed_without_pytorch():
    subprocess.run([sys.executable, "-c", START.format(arguments=LIGHT)], check=True, capture_output=True)


def test_unknown_commands_suggest(capsys):
    assert main.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_every_command_has_a_module_with_help(capsys):
    for name in main.COMMANDS:
        try:
            code = main.main([name, "--help"])
        except SystemExit as stop:  # of argparse
            code = stop.code
        assert code == 0 and f"usage: sqr {name}" in capsys.readouterr().out


def settled(*words):
    args = train_parser().parse_intermixed_args(list(words))
    train._settle(args)
    return args


def test_options_and_overrides_stand_in_any_order():
    for words in (["a.py", "x=1", "--resume", "+y=2"], ["--config-file", "a.py", "--resume", "x=1", "+y=2"]):
        args = settled(*words)
        assert (args.config_file, args.opts, args.resume) == ("a.py", ["x=1", "+y=2"], True)
    with pytest.raises(UsageError, match=r"override 'b\.py': write key=value"):
        settled("a.py", "b.py")
    with pytest.raises(UsageError, match="--run DIR evaluates"):
        settled("--run", "output", "a.py", "--eval-only")


def test_a_copied_config_trains_and_can_be_changed(tmp_path, capsys):
    file = tmp_path / "mine.py"
    assert configs.main(["cp", "quick/deformable_detr_shapes", str(file)]) == 0
    file.write_text(
        file.read_text().replace('# cfg.model.decoder.plan = "selective"', 'cfg.model.decoder.plan = "dense"')
    )
    cfg = load_run_config(str(file), ["train.max_iter=3"], needs_data=False)
    assert (cfg.model.decoder.plan, cfg.lr_multiplier.max_iter, cfg.model.num_classes) == ("dense", 3, 6)
    assert configs.main(["cp", "quick/deformable_detr_shapes", str(file)]) == 1
    assert "exists; name another file" in capsys.readouterr().err
    assert configs.main(["ls", "nothing*like*it"]) == 1


def test_training_from_python(tmp_path):
    results = api.train(TOY_CONFIG, output_dir=tmp_path / "run", train__max_iter=2, train__eval_period=0)
    assert "AP" in results["bbox"] and (tmp_path / "run" / "model_final.pth").is_file()


def test_values_reach_the_config_as_they_are():
    text = "a 'b' \\ c=[1]"
    changes = [f"+train.note={api._text(text)}", f"+train.more={api._text([1, None, {'x': 'y z'}])}"]
    cfg = load_run_config(TOY_CONFIG, changes)
    assert cfg.train.note == text and cfg.train.more == [1, None, {"x": "y z"}]
