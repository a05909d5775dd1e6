"""Operators of the detectors."""

from .reference import ms_deform_attn_reference as ms_deform_attn

__all__ = ["ms_deform_attn"]
