"""List the shipped configs, or copy one as the start of your own config.

sqr configs ls [PATTERN]
sqr configs cp quick/finetune_sqr_deformable_detr mine.py
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path

from ..catalog import checkpoint_names, config_name, config_names, get_config_file
from ..errors import UserError, as_user_error, report_error
from ..files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True, metavar="ls | cp")
    listing = commands.add_parser("ls", help="names and first lines of the shipped configs")
    listing.add_argument("pattern", nargs="?", default="*", help="such as 'quick/*' or '*adamixer*'")
    copying = commands.add_parser("cp", help="write a config file that starts from a shipped one")
    copying.add_argument("name", help="name of a shipped config")
    copying.add_argument("file", type=Path, help="file to write; must not exist")
    args = parser.parse_args(argv)
    try:
        return list_configs(args.pattern) if args.action == "ls" else copy_config(args.name, args.file)
    except UserError as error:
        return report_error(error)


def list_configs(pattern: str) -> int:
    """Print the matching names, with ``*`` after those with a trained checkpoint."""
    trained = set(checkpoint_names())
    names = [n for n in config_names() if fnmatch.fnmatch(n, pattern) or pattern in n]
    if not names:
        raise UserError(f"no shipped config matches {pattern!r}; sqr configs ls lists all")
    width = max(map(len, names)) + 2
    for name in names:
        print(f"{name + ('*' if name in trained else ''):<{width}}{_first_line(get_config_file(name))}")
    print("\n* comes with a trained checkpoint (train.init_checkpoint=zoo)")
    return 0


def copy_config(name: str, file: Path) -> int:
    """Write a config file that starts from a shipped config and can be edited."""
    with as_user_error(ValueError):
        name = config_name(name)
    if file.suffix != ".py":
        raise UserError(f"{file}: a config of one's own is a .py file")
    if os.path.lexists(file):
        raise UserError(f"{file} exists; name another file")
    text = (
        f'"""Own config, from {name}.\n\n    sqr train {file}\n"""\n\n'
        "from sqr import model_zoo\n\n"
        f'cfg = model_zoo.get_config("{name}")\n'
        f'cfg.train.output_dir = "output/{file.stem}"\n'
        '# cfg.model.decoder.plan = "selective"\n'
    )
    with as_user_error(OSError, prefix=f"{file}: "):
        write_text(file, text)
    print(f"wrote {file}; train it with: sqr train {file}")
    return 0


def _first_line(path: str) -> str:
    text = ast.get_docstring(ast.parse(Path(path).read_text())) or ""
    return text.splitlines()[0] if text else ""
