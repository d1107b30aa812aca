"""VIDEO_MODEL -> VIDEO_MODEL with LoRAs: one, or a stack of them."""

from .one import AddLoRA as AddLoRA
from .stack import StackLoRAs as StackLoRAs

NODES = [AddLoRA, StackLoRAs]
