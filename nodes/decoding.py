"""Latents become pictures or a video file, streamed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor

from ..loaders.messages import InputError, inputs_named, message
from ..loaders.request import Decoding
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from ..samplers.early import check_decoding, check_tile
from . import host
from .effect import Conditions, counted, idle
from .origin import decoder, untouched_of
from .types import InputValue, decoding_inputs, model_input, number_input, sound_input, source_sound_input, whole_input
from .video.file import FileWriter, write_video
from .video.formats import DEFAULT, FORMATS, RATED, format_input, format_notes
from .words import written

if TYPE_CHECKING:
    from ..loaders.vae.tiles import Tiling
    from ..samplers.decode import Form


class Tiled(io.ComfyNode):
    """What nodes that decode latents share."""

    @classmethod
    def check_lazy_status(cls, model: VideoModel | None = None, tile: int = 0, **inputs: InputValue) -> list[str]:
        """Refuse tiles that cannot be before the latents are sampled."""
        from ..samplers.decode import tiling_of

        check_tile(tile)
        if model is not None and tile:
            tiling_of(model, 1, 1, tile)
        later = host.pending(cls, inputs)
        if later:  # else it was said
            host.tell_unkept(cls)
        return later


class Decode(Tiled):
    """Decode Video to Images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireDecode",
            display_name="Decode Video to Images",
            category="Reelwire/decoding",
            description="Decodes latents to frames. For long videos use Decode Video to File, which never holds all "
            "frames.",
            search_aliases=["vae decode", "video decode", "解码", "视频解码"],
            inputs=counted([_latent(), _model(), _tile(), *decoding_inputs()], DECODING_COUNTS),
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames in order"),
                io.Audio.Output(
                    display_name="audio",
                    tooltip="The sound of the video that this one was made from, as long as the frames; nothing "
                    "without one",
                ),
                io.Float.Output(display_name="fps", tooltip="Frames per second, as the latents say"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(
        cls,
        decode_timestep: float | None = None,
        decode_noise: float | None = None,
        tone_map: float | None = None,
        tile: int | None = None,
    ) -> bool | str:
        return host.valid((check_tile, tile), *decoding_checks(decode_timestep, decode_noise, tone_map))

    @classmethod
    def execute(
        cls, latent: host.Latent, model: VideoModel | None = None, tile: int = 0, **decoding: float
    ) -> io.NodeOutput:
        from ..samplers.decode import floats

        report = host.Report(cls)
        with host.latents_on_disk(latent, cls):
            model = decoder(model, latent)
            count, height, width = _new_size(model, latent)
            size = message("frames_of_size", frames=count, width=width, height=height)
            _check_ram(count * height * width * 3 * 4, size)
            model = _decoding(cls, report, model, latent, decoding)
            tiling = _tiling(report, model, latent, tile)
            fps = _rate_of(model, latent)
            audio = _audio(report, latent, count / fps)
            frames, done = torch.empty(count, height, width, 3), 0
            for piece in _frames(report, model, latent, tiling, floats):
                frames[done : done + len(piece)] = piece
                done += len(piece)
        return io.NodeOutput(frames, audio, fps, ui=report.ui(result=size))


def _check_ram(needed: int, size: str) -> None:
    """Raise InputError for frames that memory has no room for. needed: their bytes; size: theirs, in words."""
    room = host.free_ram()
    if needed > 0.9 * room:
        rule = message("ram_needed", needed=f"{needed / 2**30:.1f}", free=f"{room / 2**30:.1f}")
        raise InputError("latent", size, rule, message("use_decode_to_file"))


def _rate_of(model: VideoModel, latent: host.Latent) -> float:
    """Frames per second of latents: as they say, as the video that they were made from, or the model's."""
    source = host.source_sound(latent)
    known = source.fps if source is not None and 1 <= source.fps <= 240 else 0.0
    return float(host.note_of(latent).get("fps") or known or model.facts.fps)


def _audio(report: host.Report, latent: host.Latent, seconds: float) -> InputValue:
    """The host's AUDIO of the video that latents were made from, as long as the frames; None, and said, without one."""
    source = host.source_sound(latent)
    if source is None:
        return None
    sound, notes = host.opened_sound(source)
    if sound is None:
        report.tell(*notes)
        return None
    audio, notes = host.audio_of(sound, Fraction(seconds).limit_denominator(10**6))
    report.tell(*notes, level=logging.INFO)
    return audio


class DecodeToVideo(Tiled, FileWriter):
    """Decode Video to File."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireDecodeToVideo",
            display_name="Decode Video to File",
            category="Reelwire/decoding",
            is_output_node=True,
            description="Decodes latents straight into a video file in the output folder, frame by frame: memory does "
            "not grow with length. Prompt and workflow go into the file.",
            search_aliases=[
                "save video",
                "video combine",
                "mp4",
                "vae decode",
                "video decode",
                "解码",
                "视频解码",
                "保存视频",
            ],
            inputs=counted(
                [
                    _latent(),
                    number_input("fps", 0.0, (0.0, 240.0, 0.01), "Frames per second; 0: those of the latents"),
                    io.String.Input(
                        "filename_prefix", default="video/reelwire", tooltip="Inside ComfyUI's output folder"
                    ),
                    crf_input(),
                    _model(),
                    _tile(),
                    sound_input(),
                    source_sound_input(),
                    *decoding_inputs(),
                    format_input(),
                    _save_input(),
                ],
                FILE_COUNTS,
            ),
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        filename_prefix: str | None = None,
        fps: float | None = None,
        decode_timestep: float | None = None,
        decode_noise: float | None = None,
        tone_map: float | None = None,
        tile: int | None = None,
    ) -> bool | str:
        from ..samplers.early import check_fps

        shares = decoding_checks(decode_timestep, decode_noise, tone_map)
        return host.valid((host.check_prefix, filename_prefix), (check_fps, fps), (check_tile, tile), *shares)

    @classmethod
    def check_lazy_status(
        cls,
        model: VideoModel | None = None,
        tile: int = 0,
        fps: float = 0.0,
        filename_prefix: str = "",
        audio: InputValue = None,
        format: str = DEFAULT,
        save_output: bool = True,
        **inputs: InputValue,
    ) -> list[str]:
        """Refuse what cannot be written before the latents are sampled."""
        from ..samplers.early import check_fps

        host.check_output(cls, filename_prefix, FORMATS[format].suffix, save_output)
        check_fps(fps)
        FORMATS[format].check_rate(fps)
        host.sound_of(audio)
        return super().check_lazy_status(model, tile, **inputs)

    @classmethod
    def execute(
        cls,
        latent: host.Latent,
        fps: float,
        filename_prefix: str,
        crf: int = 17,
        model: VideoModel | None = None,
        tile: int = 0,
        audio: InputValue = None,
        source_sound: bool = True,
        format: str = DEFAULT,
        save_output: bool = True,
        **decoding: float,
    ) -> io.NodeOutput:
        from ..samplers.decode import eight_bits, sixteen_bits

        report, form = host.Report(cls), FORMATS[format]
        with host.latents_on_disk(latent, cls):
            model = decoder(model, latent)
            meter, (count, height, width) = host.Meter(model), _new_size(model, latent)
            sampled, source = host.note_of(latent).get("fps", 0.0), latent if source_sound else None
            fps, sound, sound_notes = cls.rate_and_sound(model, fps, audio, source, sampled)
            form.check_rate(fps)
            path, subfolder, notes = host.output_file(cls, filename_prefix, form.suffix, width, height, save_output)
            report.tell(*host.gone_notes(cls), *notes, *sound_notes)
            report.tell(*idle(cls, {"format": format, "crf": crf}))
            model = _decoding(cls, report, model, latent, decoding)
            tiling = _tiling(report, model, latent, tile)
            frames = _frames(report, model, latent, tiling, sixteen_bits if form.deep else eight_bits)
            metadata = host.metadata(cls, latent.get("reelwire"))
            file = write_video(path, frames, (width, height), fps, crf, metadata, sound, form)
            path = report_file(report, format_notes(format, crf, sound is not None), *file)
        host.remember_file(cls, path)
        preview = host.shown_file(path, subfolder, save_output)
        result = written(width, height, count, fps, path)
        video = host.made_video(path, latent.get("reelwire"), meter.decoded(latent))
        return io.NodeOutput(video, ui=report.ui(preview, result))


def _known(model: VideoModel, latent: host.Latent) -> int:
    """How many first frames of a LATENT are those of the clip that it goes on from, which are not new."""
    note, total = host.note_of(latent), _size(model, latent)[0]
    count = note.get("clip_frames", 0)
    return count if isinstance(count, int) and 0 < count < total == note.get("frames") else 0  # else it was cut since


def _new_size(model: VideoModel, latent: host.Latent) -> tuple[int, int, int]:
    """(frames without those that it goes on from, height, width) of a LATENT; raises InputError as `_size`."""
    count, height, width = _size(model, latent)
    return count - _known(model, latent), height, width


DECODING_COUNTS: Conditions = {
    name: {"family": with_feature("decode_timestep")} for name in ("decode_timestep", "decode_noise", "tone_map")
}


FILE_COUNTS: Conditions = {**DECODING_COUNTS, "crf": {"format": RATED}}


def decoding_checks(timestep: float | None, noise: float | None, tone_map: float | None) -> tuple[host.Check, ...]:
    """What can be refused of `decoding_inputs` before anything runs."""
    values = {"decode_timestep": timestep, "decode_noise": noise, "tone_map": tone_map}
    return tuple((check_decoding, name, value) for name, value in values.items())


def _decoding(
    cls: type[io.ComfyNode], report: host.Report, model: VideoModel, latent: host.Latent, inputs: dict[str, float]
) -> VideoModel:
    """The model with how it decodes: as the node says, else as the preset that the latents were made with."""
    for name, value in inputs.items():
        check_decoding(name, value)
    report.tell(*idle(cls, inputs, model))
    preset = Decoding(**host.note_of(latent).get("decoding", {}))
    named = {"timestep": "decode_timestep", "noise": "decode_noise", "tone_map": "tone_map"}
    asked = {field: inputs.get(name, -1.0) for field, name in named.items()}
    steps_last = model.parts["vae"].config.get("timestep_conditioning")
    if "decode_timestep" in model.checkpoint.spec.features and not steps_last:
        unread = {named[field]: asked[field] for field in ("timestep", "noise") if asked[field] >= 0}
        words = [
            message("idle_decode_time", input=inputs_named(n), value=v, variant=model.variant)
            for n, v in unread.items()
        ]
        report.tell(*words)
    return replace(model, decoding=replace(preset, **{field: v for field, v in asked.items() if v >= 0}))


def _size(model: VideoModel, latent: host.Latent) -> tuple[int, int, int]:
    """(frames, height, width) that a LATENT decodes to; raises InputError where it is not this model's."""
    from ..samplers.decode import frame_count

    samples, facts = host.latents_of(model, latent), model.facts
    family = host.note_of(latent).get("family", "")
    if family not in (model.name, "") or samples.ndim != 5 or samples.shape[1] != facts.channels or 0 in samples.shape:
        what = message("latents_of", family=family or message("unknown_model"), shape=list(samples.shape))
        rule = message("decodes_latents_of", variant=model.variant, family=model.name, channels=facts.channels)
        raise InputError("latent", what, rule, message("connect_its_model"))
    if samples.shape[0] != 1:
        raise InputError(
            "latent", message("a_batch", count=samples.shape[0]), message("one_video"), message("split_batch")
        )
    step, count = facts.frame_step, frame_count(model, samples)
    if step and (count - 1) % step:
        rule = message("decodes_counts", variant=model.variant, step=step)
        raise InputError(
            "latent",
            message("latent_frames", count=samples.shape[2]),
            rule,
            message("cut_to", count=(count - 1) // step * step // facts.temporal_ratio + 1),
        )
    return count, samples.shape[3] * facts.spatial_ratio, samples.shape[4] * facts.spatial_ratio


class LoadLatent(io.ComfyNode):
    """Load Kept Latents (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLoadLatent",
            display_name="Load Kept Latents (Video)",
            category="Reelwire/decoding",
            description="Loads the latents that a decode which failed has kept, so that the video can be decoded "
            "without sampling again.",
            search_aliases=["recover", "load latent", "恢复", "加载潜空间"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list(host.saved_latents()),
                    tooltip="A file in output/reelwire/latents, newest first",
                )
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The latents, with family, size, seed, frame rate, and the sound of the video that they "
                    "were made from",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return host.valid((_latents_file, file))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return host.modified(path) if (path := host.saved_latents().get(file)) else 0.0

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        latent, notes = host.read_latents(_latents_file(file))
        report = host.Report(cls)
        report.tell(*notes)
        return io.NodeOutput(latent, ui=report.ui())


def _latents_file(file: str) -> Path:
    """The path of saved latents; raises InputError where there is no such file."""
    files = host.saved_latents()
    if file not in files:
        rule = message("no_latents_file")
        raise InputError("file", file, rule, message("press_r"))
    return files[file]


def report_file(report: host.Report, notes: Sequence[str], path: Path, sound: list[str]) -> Path:
    """Say what is in a file that was written, beside what a person sees at once; the file."""
    report.tell(*sound, *notes, level=logging.INFO)
    return path


def crf_input(**more: object) -> io.Input:
    """The quality of a file. more: further arguments of the input."""
    tooltip = (
        "Quality of the pictures: 0 keeps all that YUV 4:4:4 of the format's depth holds, 17 looks lossless, 28 small"
    )
    return whole_input("crf", 17, (0, 51), tooltip, advanced=True, **more)


def _save_input() -> io.Input:
    """Whether a file is kept."""
    tooltip = "Off: into ComfyUI's folder of temporary files, which it empties when it starts; to look at"
    return io.Boolean.Input("save_output", default=True, tooltip=tooltip, optional=True, advanced=True)


def _latent() -> io.Input:
    """The socket for latents that say which model made them."""
    tooltip = "Latents of a video, from Video Sampler; they say which model made them"
    return io.Latent.Input("latent", tooltip=tooltip)


def _model() -> io.Input:
    """The socket for the model of those that do not say it."""
    tooltip = (
        "Needed for latents that do not say which model made them (Load Kept Latents, other packs); for those of "
        "Video Sampler it may stay open"
    )
    return model_input(tooltip, optional=True)


def _tile() -> io.Input:
    """The size of a tile of each frame."""
    return whole_input(
        "tile",
        0,
        (0, 16384),
        "Pixels across a tile of each frame; 0: the whole frame, or as much as memory allows",
        optional=True,
        advanced=True,
    )


def _tiling(report: host.Report, model: VideoModel, latent: host.Latent, tile: int) -> Tiling:
    """The tiles that were asked for, or those that memory has room for, which the node then tells."""
    from ..samplers.decode import tiling_of

    height, width = host.latents_of(model, latent).shape[3:]
    tiling = tiling_of(model, height, width, tile)
    if tiling.size and not tile:
        report.tell(decoded_in_tiles(tiling, model))
    return tiling


def decoded_in_tiles(tiling: Tiling, model: VideoModel) -> str:
    """What a person should know of tiles that nobody asked for."""
    return message("memory_decode_tiles", tiles=tiling.words(model.facts.spatial_ratio))


def _frames(
    report: host.Report, model: VideoModel, latent: host.Latent, tiling: Tiling, form: Form
) -> Iterator[Tensor]:
    """Frames in order with progress, preview and interrupt; how well a loop closes is said after them."""
    pieces = _decoded(report, model, latent, tiling, form)
    return with_seam(report, pieces) if host.note_of(latent).get("loop") else pieces


def _decoded(
    report: host.Report, model: VideoModel, latent: host.Latent, tiling: Tiling, form: Form
) -> Iterator[Tensor]:
    """Frames in order with progress, preview and interrupt."""
    from ..samplers.decode import frame_count
    from ..samplers.parallel.clip.spread import stream_frames
    from ..samplers.sources.untouched import with_untouched

    samples, view, done = host.latents_of(model, latent), host.LiveView(), 0
    total, note = frame_count(model, samples), host.note_of(latent)
    seed, fps = note.get("seed", 0), _rate_of(model, latent)
    known = _known(model, latent)
    if known:
        report.tell(message("clip_left_out", count=known), level=logging.INFO)
    view.learn(model, samples)
    untouched = untouched_of(model, latent, samples)
    if untouched is not None and untouched.is_part:
        report.tell(message("mask_decoded"), level=logging.INFO)
    made = lambda form: stream_frames(model, samples, seed, tiling, report.tell, form=form)
    for piece in with_untouched(model, untouched, made, seed, tiling, form):
        new = piece[max(known - done, 0) :]
        done += len(piece)
        view.frames(done, total, piece, fps)
        if len(new):
            yield new


def with_seam(report: host.Report, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """The frames of a loop; after the last, how well they meet the first is said."""
    from ..samplers.loop import Seam

    seam = Seam()
    for piece in pieces:
        seam.watch(piece)
        yield piece
    report.tell(message("loop_seam", ratio=f"{seam.ratio:.2g}"), level=logging.INFO)


NODES = [Decode, DecodeToVideo, LoadLatent]
