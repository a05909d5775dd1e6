"""Projects a backbone's feature maps to levels of equal width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .norm import MaskedGroupNorm
from .position import resize_mask


class ConvNeck(nn.Module):
    """One convolution and GroupNorm per level (Deformable DETR's ``input_proj``, mmdet's ``ChannelMapper``).

    Args:
        in_channels: channels of each backbone feature by name, finest first, e.g.
            ``{"res3": 512, "res4": 1024, "res5": 2048}``.
        out_channels: ``C``.
        num_levels: number of levels. Beyond the backbone's features, each level is a 3x3 convolution of stride 2 of
            the previous one, the first of them of the last *backbone* feature, not of its projection.
        bias: whether the convolutions have a bias (official code: yes; mmdet: no).
        num_norm_groups: of the GroupNorm.
    """

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        out_channels: int = 256,
        num_levels: int = 4,
        bias: bool = True,
        num_norm_groups: int = 32,
    ):
        super().__init__()
        if num_levels < len(in_channels):
            raise ValueError(
                f"num_levels={num_levels} is less than the {len(in_channels)} features {list(in_channels)}; "
                "leave features out or raise num_levels"
            )
        self.in_features: Sequence[str] = tuple(in_channels)
        channels = [*in_channels.values()]
        convs = [nn.Conv2d(c, out_channels, 1, bias=bias) for c in channels]
        for extra in range(num_levels - len(channels)):
            c = out_channels if extra else channels[-1]
            convs.append(nn.Conv2d(c, out_channels, 3, stride=2, padding=1, bias=bias))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(MaskedGroupNorm(num_norm_groups, out_channels) for _ in convs)
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            if bias:
                nn.init.zeros_(conv.bias)

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor | None = None) -> list[Tensor]:
        """Compute the levels.

        Args:
            features: ``{name: (B, C_in, h, w)}``.
            padding_mask: ``(B, height, width)`` bool of the padded input images: exclude padding from statistics and
                convolutions, and set it to zero. None, as published: padding is treated like any pixel.

        Returns:
            ``num_levels`` maps ``(B, C, h, w)``, finest first.
        """
        inputs = [features[name] for name in self.in_features]
        levels = [
            _normalised(norm, conv(x), padding_mask)
            for conv, norm, x in zip(self.convs, self.norms, inputs, strict=False)
        ]
        x = inputs[-1]
        if padding_mask is not None:
            x = x.masked_fill(resize_mask(padding_mask, x.shape[-2:])[:, None], 0)
        for conv, norm in zip(self.convs[len(inputs) :], self.norms[len(inputs) :], strict=True):
            x = _normalised(norm, conv(x), padding_mask)
            levels.append(x)
        return levels


class ChannelMappingNeck(nn.Module):
    """One 1x1 convolution per level and *one* GroupNorm shared by all levels (AdaMixer's ``ChannelMapping``).

    Args:
        in_channels: channels of each backbone feature by name, finest first.
        out_channels: ``C``.
        num_norm_groups: of the GroupNorm.
    """

    def __init__(self, *, in_channels: Mapping[str, int], out_channels: int = 256, num_norm_groups: int = 32):
        super().__init__()
        self.in_features: Sequence[str] = tuple(in_channels)
        self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels.values())
        self.norm = MaskedGroupNorm(num_norm_groups, out_channels)
        for conv in self.convs:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor | None = None) -> list[Tensor]:
        """``{name: (B, C_in, h, w)}`` -> one map ``(B, C, h, w)`` per level; the mask as :meth:`ConvNeck.forward`."""
        levels = [conv(features[name]) for conv, name in zip(self.convs, self.in_features, strict=True)]
        return [_normalised(self.norm, x, padding_mask) for x in levels]


def _normalised(norm: MaskedGroupNorm, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """``norm(x)`` with the mask of the padded images resized to ``x``."""
    return norm(x, None if padding_mask is None else resize_mask(padding_mask, x.shape[-2:]))
