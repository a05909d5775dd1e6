"""The decoder layer of detectors that attend to all tokens of one level."""

from __future__ import annotations

from torch import Tensor, nn

from ..decoder import DecoderStage
from ..structures import DenseMemory, KeysAndValues, PreparedMemory, fold_groups_into_batch, fold_groups_into_queries
from .initialisation import xavier_uniform_all
from .mlp import FFN, make_activation


class DenseDecoderLayer(DecoderStage):
    """Self-attention within a group, attention to the memory, FFN; post-norm. Base class of stages.

    Args:
        self_attn: ``(x, position)`` -> ``(B, Q, C)``.
        cross_attn: ``project(memory)`` -> keys and values; ``attend(keys_and_values, x, *positions)`` ->
            ``(B, Q, C)``.
    """

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        cross_attn: nn.Module,
        dim: int = 256,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        activation: str = "relu",
    ):
        super().__init__()
        self.self_attn = self_attn
        self.cross_attn = cross_attn
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout, activation=make_activation(activation))
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        xavier_uniform_all(self)

    def prepare(self, memory: DenseMemory) -> PreparedMemory[DenseMemory, KeysAndValues]:
        """Project keys and values."""
        return PreparedMemory(memory, self.cross_attn.project(memory))

    def attend(
        self,
        memory: PreparedMemory[DenseMemory, KeysAndValues],
        content: Tensor,
        position: Tensor,
        *cross_positions: Tensor,
    ) -> Tensor:
        """New content.

        Args:
            memory: as prepared.
            content, position: ``(B, G, Q, C)``.
            cross_positions: further inputs of the cross-attention, ``(B, G, Q, C)`` each.

        Returns:
            ``(B, G, Q, C)``.
        """
        shape = content.shape
        x = fold_groups_into_batch(content)
        x = self.norm1(x + self.dropout1(self.self_attn(x, fold_groups_into_batch(position))))
        x = fold_groups_into_queries(x.view(shape))
        positions = [fold_groups_into_queries(p) for p in (position, *cross_positions)]
        x = self.norm2(x + self.dropout2(self.cross_attn.attend(memory.projection, x, *positions)))
        return self.norm3(self.ffn(x)).view(shape)
