"""Functions with which configs build all stages or layers from one set of arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn


def repeated(cls: type[nn.Module], name: str, count: str) -> Callable[..., list[nn.Module]]:
    """Make a function ``name`` that returns a list of modules, each with its own initial weights.

    Its arguments are those of ``cls`` and the number of modules, under the name ``count`` (6 by default). Submodules
    named in ``shared`` are those of the first module in all modules, those named in ``cloned`` have its initial values;
    ``make_first`` then adapts the first module. All three are optional.
    """

    def make(**options: object) -> list[nn.Module]:
        number = options.pop(count, 6)
        modules = [cls(**options) for _ in range(number)]
        for module in modules[1:]:
            for shared in getattr(module, "shared", ()):
                setattr(module, shared, getattr(modules[0], shared))
            for cloned in getattr(module, "cloned", ()):
                getattr(module, cloned).load_state_dict(getattr(modules[0], cloned).state_dict())
        if modules and hasattr(cls, "make_first"):
            modules[0].make_first()
        return modules

    parameters = inspect.signature(cls).parameters.values()
    number = inspect.Parameter(count, inspect.Parameter.KEYWORD_ONLY, default=6, annotation=int)
    make.__signature__ = inspect.Signature([number, *parameters])
    make.__module__, make.__name__, make.__qualname__ = cls.__module__, name, name  # for saved configs
    make.__doc__ = f"``{count}`` of :class:`{cls.__name__}`, which has the other arguments."
    return make
