"""Models of timm and torchvision as Detectron2 backbones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ..errors import UserError

BATCH_NORMS = ("trainable", "fixed_stats", "frozen")
_BATCH_NORM = nn.modules.batchnorm._NormBase


class LibraryBackbone(Backbone):
    """Base class: named maps, batch norm, frozen layers.

    Maps are named after their strides, as Detectron2's ResNets name them: ``res2`` has stride 4, ``res3`` 8, ``res4``
    16, ``res5`` 32. Weights come from a checkpoint (``train.init_checkpoint``): the constructor never fetches any.

    Args:
        net: images -> maps, in the order of ``maps``.
        maps: channels and stride of each map, by name.
        channels_last_maps: names of the maps that ``net`` returns as ``(B, h, w, C)``.
        batch_norm: ``"fixed_stats"`` keeps the pretrained statistics and trains scale and shift (mmdet's
            ``norm_eval``), ``"frozen"`` trains neither (Detectron2's ``FrozenBN``), ``"trainable"`` is ordinary batch
            norm, whose training depends on the other images of a batch.
        channels_last: keep convolution weights in PyTorch's ``channels_last`` format, which is about twice as fast for
            depthwise convolutions on a CPU.
        frozen: the first ``frozen`` parameters of ``net``, in its order, are not trained.

    Raises:
        ValueError: unknown ``batch_norm``.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        maps: Mapping[str, ShapeSpec],
        channels_last_maps: Sequence[str] = (),
        batch_norm: str = "fixed_stats",
        channels_last: bool = False,
        frozen: int = 0,
    ):
        super().__init__()
        if batch_norm not in BATCH_NORMS:
            raise ValueError(f"batch_norm={batch_norm!r}: must be one of {', '.join(BATCH_NORMS)}")
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.maps, self.channels_last_maps, self.batch_norm = dict(maps), set(channels_last_maps), batch_norm
        if batch_norm == "frozen":
            for module in net.modules():
                if isinstance(module, _BATCH_NORM):
                    module.requires_grad_(False)
        for parameter in list(net.parameters())[:frozen]:
            parameter.requires_grad_(False)
        self.train(self.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, height, width)`` -> ``{name: (B, C, h, w)}``."""
        outputs = zip(self.maps, self.net(images), strict=True)
        return {k: x.permute(0, 3, 1, 2).contiguous() if k in self.channels_last_maps else x for k, x in outputs}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self.maps)

    def train(self, mode: bool = True) -> LibraryBackbone:
        """Keep batch norm's statistics in training unless it is trainable; those of frozen layers always."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BATCH_NORM):
                trained = any(p.requires_grad for p in module.parameters())
                module.train(mode and trained and self.batch_norm == "trainable")
        return self

    def own_names(self, names: Sequence[str]) -> dict[str, str]:
        """This module's names of the tensors of the library's whole model, for those that it has.

        timm's feature extractors wrap the model (``model.``) or join the first two components of a name
        (``stages.0.`` becomes ``stages_0.``).
        """
        own = self.net.state_dict()
        renamed = {}
        for name in names:
            candidates = (name, f"model.{name}", re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", name))
            renamed.update((name, f"net.{c}") for c in candidates if c in own)
        return renamed


class TimmBackbone(LibraryBackbone):
    """Any timm model that supports ``features_only``.

    Of several maps with the same stride, as in a plain ViT, the last one is used.

    Args:
        name: timm's name of the model.
        out_features: maps to return, finest first; layers after the last of them are not built.
        batch_norm, channels_last: as for :class:`LibraryBackbone`.
        freeze_at: freeze everything up to the map ``res{freeze_at}``, as Detectron2's ResNets do; 0 freezes nothing.
        drop_path: rate of stochastic depth, if the model has it.
        options: further arguments of ``timm.create_model``, for example
            ``{"img_size": 320, "strict_img_size": False}`` for a Swin Transformer.

    Raises:
        UserError: timm is not installed, does not know the model, or the model lacks one of the maps.
        ValueError: ``batch_norm`` is unknown, or ``freeze_at`` names no map.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        batch_norm: str = "fixed_stats",
        freeze_at: int = 0,
        drop_path: float = 0.0,
        channels_last: bool = False,
        options: Mapping | None = None,
    ):
        options = dict(options or {})
        if drop_path:
            options["drop_path_rate"] = drop_path
        with torch.device("meta"):
            info = create_timm_model(name, features_only=True, **options).feature_info
        there = dict(zip(map(_map_name, info.reduction()), info.out_indices, strict=True))
        _check_maps(f"TimmBackbone(name={name!r})", out_features, there)
        net = create_timm_model(name, features_only=True, out_indices=[there[x] for x in out_features], **options)
        fix_same_padding(net)
        info = net.feature_info
        maps = {
            x: ShapeSpec(channels=channels, stride=stride)
            for x, channels, stride in zip(out_features, info.channels(), info.reduction(), strict=True)
        }
        super().__init__(
            net=net,
            maps=maps,
            channels_last_maps=maps if getattr(net, "output_fmt", None) == "NHWC" else (),
            batch_norm=batch_norm,
            channels_last=channels_last,
            frozen=_parameters_up_to(net, [(m["reduction"], m["module"]) for m in info.info], freeze_at, name),
        )


class TorchvisionBackbone(LibraryBackbone):
    """Any torchvision classification model, cut at named nodes.

    Args:
        name: torchvision's name of the model.
        nodes: the node of each map, finest first: ``{"res3": "layer2", "res4": "layer3", "res5": "layer4"}`` for a
            ResNet; ``torchvision.models.feature_extraction.get_graph_node_names`` lists a model's nodes.
        batch_norm, channels_last: as for :class:`LibraryBackbone`.
        freeze_at: freeze everything up to the map ``res{freeze_at}``, which ``nodes`` must name; 0 freezes nothing.

    Raises:
        UserError: torchvision does not know the model or the node.
        ValueError: ``batch_norm`` is unknown, ``freeze_at`` names no map, or a map's name does not match its stride.
    """

    def __init__(
        self,
        *,
        name: str,
        nodes: Mapping[str, str],
        batch_norm: str = "fixed_stats",
        freeze_at: int = 0,
        channels_last: bool = False,
    ):
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        nodes = dict(nodes)
        try:
            extractor = create_feature_extractor(get_model(name, weights=None), {v: k for k, v in nodes.items()})
        except ValueError as error:
            raise UserError(f"TorchvisionBackbone(name={name!r}, nodes={nodes}): {error}") from error
        maps, channels_last_maps = _maps_of(extractor, nodes, name)
        super().__init__(
            net=_MapList(extractor, tuple(nodes)),
            maps=maps,
            channels_last_maps=channels_last_maps,
            batch_norm=batch_norm,
            channels_last=channels_last,
            frozen=_parameters_up_to(extractor, [(maps[k].stride, v) for k, v in nodes.items()], freeze_at, name),
        )


class _MapList(nn.Module):
    """An extractor's maps as a list; its names start with ``model.``, as in timm's wrappers."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.model(images)
        return [maps[name] for name in self.names]


def create_timm_model(name: str, *, pretrained: bool = False, **options) -> nn.Module:
    """A timm model, without weights unless ``pretrained``, which downloads and caches them.

    Raises:
        UserError: timm is not installed, it has no such model or option, or an option names a file.
    """
    files = sorted({"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"} & set(options))
    if files:
        raise UserError(
            f"timm model {name!r}: leave out {', '.join(files)}; train.init_checkpoint names weights to load"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, about timm's own code
            import timm
    except ImportError as error:
        raise UserError(f"the timm model {name!r} needs timm: pip install 'detectron2-sqr[timm]'") from error
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"timm cannot make {name!r} with the options {options}: {error}") from error


class SamePaddingConv2d(nn.Conv2d):
    """TensorFlow's "same" padding of a strided convolution on inputs of even size, as a constant.

    timm computes it from the input's size, which an export with dynamic sizes cannot trace. Images padded to a
    multiple of the coarsest stride (``model.size_divisibility``) have even sizes at every such convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        total = max(self.kernel_size[0] - self.stride[0], 0)
        before, after = total // 2, total - total // 2
        padded = nn.functional.pad(x, (before, after, before, after))
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def fix_same_padding(net: nn.Module) -> None:
    """Replace timm's convolutions with TensorFlow's "same" padding, keeping their parameters and names."""
    for name, module in list(net.named_modules()):
        if type(module).__name__ != "Conv2dSame":
            continue
        fixed = SamePaddingConv2d(
            module.in_channels, module.out_channels, module.kernel_size, module.stride,
            groups=module.groups, bias=module.bias is not None, device="meta",
        )  # fmt: skip
        fixed.weight, fixed.bias = module.weight, module.bias
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, fixed)


def _map_name(stride: int) -> str:
    """``res{l}`` of stride ``2 ** l``."""
    return f"res{int(stride).bit_length() - 1}"


def _check_maps(what: str, wanted: Sequence[str], there: Mapping[str, int]) -> None:
    missing = [x for x in wanted if x not in there]
    if missing or not wanted:
        raise UserError(f"{what} has the maps {', '.join(there)}; out_features={list(wanted)}")
    if sorted(wanted, key=list(there).index) != list(wanted):
        raise UserError(f"{what}: out_features={list(wanted)} must go from fine to coarse")


def _parameters_up_to(net: nn.Module, maps: Sequence[tuple[int, str]], freeze_at: int, name: str) -> int:
    """The number of parameters, in the net's order, of layers up to the last map of stride ``2 ** freeze_at``."""
    if not freeze_at:
        return 0
    modules = [module for stride, module in maps if stride == 2**freeze_at]
    if not modules:
        levels = sorted({int(stride).bit_length() - 1 for stride, _ in maps})
        raise ValueError(f"freeze_at={freeze_at}: {name} has maps of the levels {levels}, and 0 freezes nothing")
    # timm's extractors may join the first parts of a name: stages_0 is the module stages.0
    names = [key.replace("_", ".") for key, _ in net.named_parameters()]
    last = modules[-1].replace("_", ".")
    return 1 + max(i for i, key in enumerate(names) if f".{last}." in f".{key}")


def _maps_of(extractor: nn.Module, nodes: Mapping[str, str], name: str) -> tuple[dict[str, ShapeSpec], list[str]]:
    """Channels and stride of each map, and which maps have channels last, found by a run on the meta device."""
    height, width = 128, 192  # an aspect ratio that distinguishes sizes from channels
    training = extractor.training
    with torch.no_grad():
        outputs = extractor.eval()(torch.zeros(1, 3, height, width))
    extractor.train(training)
    maps, channels_last = {}, []
    for key in nodes:
        shape = outputs[key].shape
        if len(shape) != 4:
            raise ValueError(f"TorchvisionBackbone(name={name!r}): node {nodes[key]!r} is no map, but {tuple(shape)}")
        if shape[1] * 3 == shape[2] * 2:
            channels_last.append(key)
        h, channels = (shape[1], shape[3]) if key in channels_last else (shape[2], shape[1])
        maps[key] = ShapeSpec(channels=channels, stride=height // h)
        if _map_name(height // h) != key:
            raise ValueError(
                f"TorchvisionBackbone: node {nodes[key]!r} has stride {height // h}; call it "
                f"{_map_name(height // h)}, not {key}"
            )
    return maps, channels_last
