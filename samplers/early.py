"""What no model can make: refused before there is a model, so before a prompt is queued."""

from __future__ import annotations

from ..loaders.limits import ENDLESS as ENDLESS
from ..loaders.limits import LONGEST, nearest
from ..loaders.messages import InputError, either, message
from ..loaders.vae.tiles import FEWEST

LARGEST = 16384  # pixels of a side
FASTEST = 240.0  # frames per second
LENGTHS = ("frames", "source")  # what says how long a video is
FINEST, COARSEST = 8, 64  # pixels: every model's sizes are multiples of the one; multiples of the other suit them all
USUAL = (16, 32)  # pixels: what other models' sizes are multiples of


def check_side(name: str, value: int) -> None:
    """Raise InputError for a width or height that every model refuses; 0 is each model's own."""
    rule = message("side_rule", multiple=FINEST, most=LARGEST)
    if value < 0:
        raise InputError(name, value, rule, message("use_at_least_or_0", least=COARSEST))
    if value > LARGEST:
        raise InputError(name, value, rule, message("use_at_most", most=LARGEST))
    if value % FINEST:
        near = {f"of_{step}": either(*nearest(value, step, step)) for step in (*USUAL, COARSEST)}
        raise InputError(name, value, rule, message("use_side", **near))


def check_length(frames: int, most: int = LONGEST, own: bool = True) -> None:
    """Raise InputError for a number of frames that every model refuses. own: whether 0 is each model's own."""
    rule = message("length_rule", most=most)
    if frames < 0 or not (frames or own):
        remedy = message("use_at_least_or_0", least=1) if own else message("use_at_least", least=1)
        raise InputError("frames", frames, rule, remedy)
    if frames > most:
        raise InputError("frames", frames, rule, message("use_at_most", most=most))


def check_strength(strength: float) -> None:
    """Raise InputError for a strength that no source can have."""
    if not 0 < strength <= 1:
        raise InputError("strength", strength, message("share_above_0"), message("use_strength"))


def check_mask(mask: bool, source: bool) -> None:
    """Raise InputError for a mask of a source that is not there."""
    if mask and not source:
        raise InputError("mask", message("connected"), message("mask_without_source"), message("connect_source_too"))


def check_clip(clip: bool, source: bool) -> None:
    """Raise InputError for a video that would go on from a clip and be made of a source."""
    if clip and source:
        rule, remedy = message("clip_beside_source"), message("disconnect_one")
        raise InputError("extend", message("connected"), rule, remedy)


def check_length_from(choice: str, video: bool) -> None:
    """Raise InputError for a length that nothing says. video: whether a source or a control video is there."""
    if choice not in LENGTHS:
        rule, remedy = message("no_such_choice"), message("use_one_of", names=", ".join(LENGTHS))
        raise InputError("frames_from", choice, rule, remedy)
    if choice != LENGTHS[0] and not video:
        rule, remedy = message("nothing_has_length"), message("connect_source_or_frames")
        raise InputError("frames_from", choice, rule, remedy)


def check_fps(fps: float) -> None:
    """Raise InputError for a rate that no file should have; 0 is each model's own."""
    if fps and not 1 <= fps <= 240:
        raise InputError("fps", fps, message("fps_rule"), message("use_0_own_fps"))


def check_decoding(name: str, value: float) -> None:
    """Raise InputError for what is neither a share nor between 0 and -1, the preset's."""
    if not -1 <= value <= 1:
        raise InputError(name, value, message("decode_share_rule"), message("use_decode_share"))


def check_compression(crf: int) -> None:
    """Raise InputError for a quality that H.264 does not have; 0: the preset's, -1: off."""
    if not -1 <= crf <= 51:
        raise InputError("compression", crf, message("compression_rule"), message("use_compression"))


def check_tile(tile: int) -> None:
    """Raise InputError for tiles that no model decodes in; 0 is what memory has room for."""
    least = FEWEST * FINEST
    if tile and (tile < least or tile % FINEST):
        rule = message("any_tile_rule", multiple=FINEST, least=least)
        raise InputError("tile", tile, rule, message("use_tile", tile=either(*nearest(tile, least, FINEST))))


def check_keyframe(strength: float) -> None:
    """Raise InputError for a strength that no keyframe can have."""
    if not 0 < strength <= 1:
        raise InputError("strength", strength, message("share_above_0"), message("use_1_to_keep"))
