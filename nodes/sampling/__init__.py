"""VIDEO_MODEL -> LATENT: the sampler of all families, and what makes its latents larger."""

from .sampler import Sampler as Sampler
from .upscale import LatentUpscale as LatentUpscale

NODES = [Sampler, LatentUpscale]
