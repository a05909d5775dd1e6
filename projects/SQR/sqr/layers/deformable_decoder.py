"""The decoder layer of detectors with deformable attention."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ..structures import MultiScaleMemory
from .attention import MultiheadAttention
from .deformable_attention import MultiScaleDeformableAttention
from .dropout import Dropout
from .mlp import FFN


class DeformableDecoderLayer(nn.Module):
    """Self-attention inside a group, deformable attention to the memory, FFN; post-norm. A stage derives from it."""

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
        self.self_attn = MultiheadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        for weight in (self.self_attn.out_proj.weight, self.ffn.linear1.weight, self.ffn.linear2.weight):
            nn.init.xavier_uniform_(weight)

    def prepare(self, memory: MultiScaleMemory) -> MultiScaleMemory:
        """The memory with this stage's values."""
        if memory.value is not None:
            return memory
        return replace(memory, value=self.cross_attn.project(memory.tokens, memory.padding_mask))

    def attend(
        self,
        content: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: MultiScaleMemory,
        block: Tensor | None = None,
    ) -> Tensor:
        """New content.

        Args:
            content, position: ``(B, G, Q, C)``.
            reference: ``(B, G, Q, 4)`` normalised cxcywh, a point where the extent is zero.
            block: ``(B, G, Q)``, the same in every group, who sees whom in a group
                (:meth:`~sqr.structures.QueryState.beside`); None where all see each other.

        Returns:
            ``(B, G, Q, C)``.
        """
        b, g, q, c = content.shape
        # self-attention: groups are a batch of their own, (B*G, Q, C)
        x = content.reshape(b * g, q, c)
        qk = x + position.reshape(b * g, q, c)
        mask = None if block is None else visible(block[0, 0])
        x = self.norm2(x + self.dropout2(self.self_attn(qk, qk, x, bias=mask)))
        # everything else: groups are more queries of the same image, (B, G*Q, C)
        x = x.view(b, g * q, c)
        attended = self.cross_attn.attend(
            x + position.reshape(b, g * q, c),
            reference.reshape(b, g * q, 1, 4) * memory.valid_ratios[:, None].repeat(1, 1, 1, 2),
            self.prepare(memory).value,
            memory.spatial_shapes,
            memory.pixel_sizes,
        )
        x = self.norm1(x + self.dropout1(attended))
        return self.norm3(self.ffn(x)).view(b, g, q, c)


def visible(block: Tensor) -> Tensor:
    """``(Q,)`` blocks -> ``(Q, Q)`` bool: a query sees its own block and block 0."""
    return (block[:, None] == block) | (block == 0)
