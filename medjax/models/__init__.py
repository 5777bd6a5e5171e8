"""Decoders: configuration, modules, and weights in."""

from medjax.models.config import ModelConfig
from medjax.models.decoder import Decoder
from medjax.models.families import PRESETS
from medjax.models.views import Layout

__all__ = ["PRESETS", "Decoder", "Layout", "ModelConfig"]
