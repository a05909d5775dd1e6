"""The decoder layer of detectors with deformable attention."""

from __future__ import annotations

from torch import Tensor, nn

from ..decoder import DecoderStage
from ..structures import MultiScaleMemory, PreparedMemory, fold_groups_into_batch, fold_groups_into_queries
from .attention import SelfAttention
from .deformable_attention import MultiScaleDeformableAttention
from .mlp import FFN


class DeformableDecoderLayer(DecoderStage):
    """Self-attention within a group, deformable attention to the memory, FFN; post-norm. Base class of stages."""

    def __init__(
        self,
        *,
        dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.cross_attn = MultiScaleDeformableAttention(
            dim=dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = SelfAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        for weight in (self.self_attn.out_proj.weight, self.ffn.linear1.weight, self.ffn.linear2.weight):
            nn.init.xavier_uniform_(weight)

    def prepare(self, memory: MultiScaleMemory) -> PreparedMemory[MultiScaleMemory, Tensor]:
        """Project the values, ``(B, N, H, D)``."""
        return PreparedMemory(memory, self.cross_attn.project(memory.tokens, memory.padding_mask))

    def attend(
        self,
        memory: PreparedMemory[MultiScaleMemory, Tensor],
        content: Tensor,
        position: Tensor,
        reference: Tensor,
        block: Tensor | None = None,
    ) -> Tensor:
        """New content.

        Args:
            memory: as prepared.
            content, position: ``(B, G, Q, C)``.
            reference: ``(B, G, Q, 4)`` normalised cxcywh, a point where the extent is zero.
            block: ``(B, G, Q)``, the same in every group: which queries of a group attend to each other
                (:meth:`~sqr.structures.QueryState.beside`); None if all do.

        Returns:
            ``(B, G, Q, C)``.
        """
        shape, levels = content.shape, memory.memory
        x, pos = fold_groups_into_batch(content), fold_groups_into_batch(position)
        mask = None if block is None else visible(block[0, 0])
        x = self.norm2(x + self.dropout2(self.self_attn(x, pos, bias=mask)))
        x = fold_groups_into_queries(x.view(shape))
        attended = self.cross_attn.attend(
            x + fold_groups_into_queries(position),
            fold_groups_into_queries(reference)[:, :, None] * levels.valid_ratios[:, None].repeat(1, 1, 1, 2),
            memory.projection,
            levels.spatial_shapes,
            levels.pixel_sizes,
        )
        x = self.norm1(x + self.dropout1(attended))
        return self.norm3(self.ffn(x)).view(shape)


def visible(block: Tensor) -> Tensor:
    """``(Q,)`` blocks -> ``(Q, Q)`` bool: a query attends to its own block and block 0."""
    return (block[:, None] == block) | (block == 0)
