"""A study as a file: ``studies/NAME.yaml``.

It lists *arms* (what is compared), *datasets* and *seeds*. Each combination is a *cell* with one result
file. The ``kind`` says how a cell is measured (:mod:`sqr.studies.kinds`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..errors import UserError

STUDIES = Path("studies")
RESULTS = Path("results")
_KEYS = ("title", "kind", "seeds", "protocol", "datasets", "arms", "pages", "metrics", "note")
TABLES = ("full", "short", "stages")
"""With everything; with means, intervals and costs only; what the stages do."""


@dataclass(frozen=True)
class Arm:
    """What is compared: ``options`` are the kind's; ``versus`` names the arm that differences are taken to."""

    name: str
    options: Mapping
    versus: str | None = None


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        name: of the file, without its extension.
        title: a sentence.
        kind: a key of :data:`sqr.studies.kinds.KINDS`.
        seeds: measured seed by seed over all arms, so that partial results are balanced.
        protocol: options of the kind that hold for all arms.
        datasets: options of the kind by name.
        arms: in the order of the tables.
        pages: Markdown file to its tables (:data:`TABLES`).
        metrics: of the tables; the first one is compared, with intervals.
        note: a sentence for the page below the table.
    """

    name: str
    title: str
    kind: str
    seeds: tuple[int, ...]
    datasets: Mapping[str, Mapping]
    arms: Mapping[str, Arm]
    protocol: Mapping = field(default_factory=dict)
    pages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("AP", "AP50", "AP75")
    note: str = ""

    def cells(self) -> Iterator[Cell]:
        """Every cell in the order in which they are measured."""
        for seed in self.seeds:
            for dataset in self.datasets:
                for arm in self.arms:
                    yield Cell(self, arm, dataset, seed)


@dataclass(frozen=True)
class Cell:
    """One measurement of a study."""

    study: Study
    arm: str
    dataset: str
    seed: int

    @property
    def key(self) -> str:
        """A file name: dataset, arm and seed."""
        return f"{_slug(self.dataset)}/{_slug(self.arm)}-seed{self.seed}"

    @property
    def options(self) -> dict:
        """The kind's options of this cell: the protocol's, the dataset's, the arm's; overrides add up."""
        parts = (self.study.protocol, self.study.datasets[self.dataset], self.study.arms[self.arm].options)
        merged = {key: value for part in parts for key, value in part.items()}
        overrides = [override for part in parts for override in part.get("overrides") or ()]
        return {**merged, "overrides": overrides} if overrides else merged


def load_study(name: str, folder: str | Path = STUDIES) -> Study:
    """Read a study.

    Args:
        name: of a study in ``folder``, or the path of a YAML file.
        folder: where the studies are.

    Raises:
        UserError: there is no such file, or it is not a study.
    """
    path = Path(name) if Path(name).suffix == ".yaml" else Path(folder) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in Path(folder).glob("*.yaml"))) or "none"
        raise UserError(f"there is no study {name!r}: {path} does not exist; there are: {known}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return _study(path.stem, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a study: {error}") from error


def find_studies(folder: str | Path = STUDIES) -> list[Study]:
    """All studies of a folder by name."""
    return [load_study(str(path)) for path in sorted(Path(folder).glob("*.yaml"))]


def _study(name: str, content: Mapping) -> Study:
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; a study has {', '.join(_KEYS)}")
    missing = [key for key in ("title", "kind", "seeds", "datasets", "arms") if not content.get(key)]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    arms = {}
    for arm, options in content["arms"].items():
        options = dict(options or {})
        arms[str(arm)] = Arm(str(arm), options, options.pop("versus", None))
    for arm in arms.values():
        if arm.versus is not None and arm.versus not in arms:
            raise ValueError(f"arm {arm.name!r} is compared with {arm.versus!r}, which is no arm")
    pages = {str(page): tuple(tables) for page, tables in (content.get("pages") or {}).items()}
    wrong = [table for tables in pages.values() for table in tables if table not in TABLES]
    if wrong:
        raise ValueError(f"pages: {wrong[0]!r} is no table; there are {', '.join(TABLES)}")
    study = Study(
        name=name,
        title=str(content["title"]),
        kind=str(content["kind"]),
        seeds=tuple(int(seed) for seed in content["seeds"]),
        datasets={str(k): dict(v or {}) for k, v in content["datasets"].items()},
        arms=arms,
        protocol=dict(content.get("protocol") or {}),
        pages=pages,
        metrics=tuple(content.get("metrics") or ("AP", "AP50", "AP75")),
        note=str(content.get("note") or ""),
    )
    keys = [cell.key for cell in study.cells()]
    if len(set(keys)) != len(keys):
        raise ValueError("two arms or datasets differ only in characters that file names do not have, or a seed twice")
    return study


def _slug(text: str) -> str:
    return "_".join("".join(c if c.isalnum() or c in ".-" else " " for c in text).split())
