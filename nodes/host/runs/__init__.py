"""What a run has cost, and how it stays with what the run has made."""

from .made import MadeVideo as MadeVideo
from .made import about_video as about_video
from .made import made_video as made_video
from .meter import RUN as RUN
from .meter import Meter as Meter
from .meter import Run as Run
from .meter import run_of_latent as run_of_latent
