"""Sound: what an input holds of it, how it goes into a video file, and how it is kept with latents."""

from .inputs import SOUND as SOUND
from .inputs import SourceSound as SourceSound
from .inputs import audio_of as audio_of
from .inputs import components_of as components_of
from .inputs import forget_video as forget_video
from .inputs import heard_in as heard_in
from .inputs import opened_audio as opened_audio
from .inputs import opened_sound as opened_sound
from .inputs import sound_of as sound_of
from .inputs import source_rate as source_rate
from .inputs import source_sound as source_sound
from .inputs import source_sound_notes as source_sound_notes
from .inputs import video_frames as video_frames
from .kept import facts_of as facts_of
from .kept import restored as restored
from .writers import Codec as Codec
from .writers import Sound as Sound
from .writers import aac_rate as aac_rate
