"""What a family's spec.json says of it: checked when it is read, so that all others can go by it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .messages import Message, both, either

T = TypeVar("T")
FOLDER = Path(__file__).parent / "families"
# what only some families can do -> what it means
FEATURES = {
    "cache_retention": "TeaCache's published mode that computes the first steps",
    "control": "a video that says what moves where",
    "decode_timestep": "a VAE that makes the last denoising step, with a time and noise of its own",
    "dynamic_guidance": "a guidance scale that grows along a cosine",
    "embedded_guidance": "a guidance scale that the network reads",
    "flow_shift": "a shift of the noise levels that the sampler may change",
    "frame_rate": "a network that is told how many frames a second has",
    "keyframe_tokens": "given pictures are tokens of their own, for which memory is needed",
    "last_pictures": "clips that end with a given picture",
    "latent_upsampler": "networks that double the size of latents",
    "latent_windows": "long videos whose windows go on from latents",
    "motion": "how much the picture moves, as numbers",
    "pictures_anywhere": "given pictures at any frame",
    "prompt_pictures": "a prompt that is read along with the first picture",
    "spatio_temporal": "guidance away from a prediction without some blocks, with lists of scales",
    "split_tokens": "one clip's tokens can be shared out among several cards",
    "trimmed_text": "the empty rows behind a prompt's end can be left out",
    "two_experts": "a network for high noise and one for low noise",
}


# what TeaCache may go by: the keys of samplers/caches/signals.py
SIGNALS = ("modulated", "time", "embedder", "embedded")


class SpecError(ValueError):
    """A spec.json that cannot be read, with its file and its key."""


@dataclass(frozen=True)
class CacheFit:
    """A published polynomial for TeaCache.

    signal: of which the relative change goes in, one of SIGNALS.
    coefficients: the highest power first.
    threshold: the published one for about twice the speed.
    source: file of the repository that publishes it.
    warmup: steps at the start that are computed in any case.
    last: whether the last step is computed in any case.
    """

    signal: str
    coefficients: tuple[float, ...]
    threshold: float
    source: str
    warmup: int = 1
    last: bool = True


@dataclass(frozen=True)
class CacheLimits:
    """Published limits for SenCache, of the estimated change of the network's output as the root of its mean square.

    early, threshold: in the first fifth of the steps, and after it.
    longest: most reused steps in a row.
    source: file of the repository that publishes them.
    last: whether the last step is computed in any case.
    """

    early: float
    threshold: float
    longest: int
    source: str
    last: bool = True


@dataclass(frozen=True)
class Relative:
    """A published model that a file may be and no loader reads.

    title: as people write it.
    has, lacks: names of tensors under the published names: one that it has -> its shape, None for any size and for any
        shape. A name with "." at its end is the beginning of one, one with "*" before it the end.
    remedy: what to do with it, in words.
    """

    title: str
    has: Mapping[str, tuple[int | None, ...] | None]
    lacks: tuple[str, ...]
    remedy: str

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether tensors of these names and shapes are its."""
        return all(_there(name, shapes, shape) for name, shape in self.has.items()) and not any(
            _there(name, shapes) for name in self.lacks
        )


def _there(name: str, shapes: Mapping[str, tuple[int, ...]], shape: tuple[int | None, ...] | None = None) -> bool:
    """Whether a tensor of this name, beginning or end has this shape."""
    if name in shapes:
        sizes = shapes[name]
        if shape is None:
            return True
        return len(shape) == len(sizes) and all(a in (None, b) for a, b in zip(shape, sizes, strict=True))
    if name.startswith("*"):
        return any(key.endswith(name[1:]) for key in shapes)
    return name.endswith(".") and any(key.startswith(name) for key in shapes)


@dataclass(frozen=True)
class Spec:
    """What a family says of itself as data.

    folder: of the family, whose name is the family's.
    title, short_title: as people write it, and as it fits into a list.
    file_title, file_keys: how its files are called, and the ends of names of tensors that only they have.
    encoders: part -> kind of encoder, a key of weights/encoders.py:KINDS.
    encoder_files: part -> which file holds it, where that is published and where it goes, in words.
    image_encoder_key: of the network's config, says whether it needs the image encoder; empty: all of them do.
    vae: which file holds its VAE and where it is published, in words.
    pipeline: how the names of its pipelines in model_index.json begin.
    name_marks: variant -> a pattern of the names of its files, where its tensors are those of another one too.
    name_notes: a pattern of names of files -> what is to be said of them.
    alike: groups of variants whose files have the same tensors, so that names alone tell them apart.
    relatives: published models of its kind that it does not run.
    preview_formats: the host's latent formats with preview colours, told apart by their number of channels.
    frame_step, frame_counts: clips have step * n + 1 frames, or one of the counts.
    features: key of FEATURES -> the titles of the family's models that have it.
    upsampler: a published network that doubles the size of its latents; empty: there is none.
    programs: the presets that do what the makers' own program does, by the names of its configurations.
    cache_signal: what TeaCache goes by where no polynomial is published.
    cache_fits: variant -> its published polynomials; the last is that of the mode "retention".
    cache_limits: what is published for SenCache; None: nothing.
    """

    folder: Path
    title: str
    short_title: str
    file_title: str
    file_keys: tuple[str, ...]
    encoders: Mapping[str, str]
    encoder_files: Mapping[str, str]
    image_encoder_key: str
    vae: str
    pipeline: str
    name_marks: Mapping[str, str]
    name_notes: Mapping[str, str]
    alike: tuple[tuple[str, ...], ...]
    relatives: tuple[Relative, ...]
    preview_formats: tuple[str, ...]
    frame_step: int
    frame_counts: tuple[int, ...]
    features: Mapping[str, tuple[str, ...]]
    upsampler: str
    programs: tuple[str, ...]
    cache_signal: str
    cache_fits: Mapping[str, tuple[CacheFit, ...]]
    cache_limits: CacheLimits | None

    @property
    def name(self) -> str:
        """The family's name, that of its folder."""
        return self.folder.name

    def variants(self) -> list[str]:
        """The published variants that this family ships the configs of."""
        return sorted(path.name for path in (self.folder / "variants").iterdir() if path.is_dir())

    def mistakable(self, variant: str, file: str) -> tuple[str, ...]:
        """The variants whose files have the same tensors as this one's, unless the file's name tells them apart."""
        group = next((group for group in self.alike if variant in group), ())
        shared = set.intersection(*({*other.split("-")} for other in group)) if group else set[str]()
        own = {*variant.split("-")} - shared
        if all(word in file.lower() or word[1:] in file.lower() for word in own if len(word) > 1):
            return ()
        return tuple(other for other in group if other != variant)

    def config(self, variant: str, name: str) -> dict[str, Any]:
        """A JSON file of a variant: transformer, unet, vae, scheduler or defaults."""
        return dict(json.loads((self.folder / "variants" / variant / f"{name}.json").read_text(encoding="utf-8")))


@cache
def read_spec(folder: Path) -> Spec:
    """The spec.json of a family's folder; raises SpecError, with the file and the key, for one that is not whole."""
    entries = _Entries.read(folder / "spec.json")
    files, frames, features, teacache = map(entries.inner, ("recognised", "frames", "features", "teacache"))
    encoder_files = entries.inner("encoder_files")
    spec = Spec(
        folder=folder,
        title=entries.text("title"),
        short_title=entries.text("short_title"),
        file_title=files.text("title"),
        file_keys=files.texts("keys"),
        encoders=entries.named_texts("encoders"),
        encoder_files={part: _words(text, encoder_files.place(part)) for part, text in encoder_files.values.items()},
        image_encoder_key=entries.text("image_encoder_key", ""),
        vae=_words(entries.value("vae"), entries.place("vae")),
        pipeline=entries.text("pipeline"),
        name_marks=entries.named_texts("name_marks", {}),
        name_notes=entries.named_words("name_notes"),
        alike=tuple(tuple(map(str, group)) for group in entries.lists("alike")),
        relatives=_relatives(entries),
        preview_formats=entries.texts("preview_formats"),
        frame_step=frames.number("step", 0),
        frame_counts=frames.numbers("counts"),
        features=features.all_texts(),
        upsampler=entries.text("upsampler", ""),
        programs=entries.texts("programs", []),
        cache_signal=teacache.one_of("signal", SIGNALS),
        cache_fits=_fits(teacache),
        cache_limits=_limits(entries),
    )
    for part in (files, frames, teacache, entries):
        part.nothing_else()
    if bool(spec.frame_step) == bool(spec.frame_counts):
        raise SpecError(f"{frames.at}: either step or counts is needed")
    if spec.encoders.keys() != spec.encoder_files.keys():
        raise SpecError(f"{encoder_files.at}: the parts of encoders are needed, {', '.join(spec.encoders)}")
    if strange := spec.features.keys() - FEATURES.keys():
        raise SpecError(f"{entries.place('features')}: {', '.join(sorted(strange))} is none of {', '.join(FEATURES)}")
    if empty := [name for name, titles in spec.features.items() if not titles]:
        raise SpecError(f"{entries.place('features')}: {', '.join(empty)}: a title is needed")
    return spec


@cache
def specs() -> tuple[Spec, ...]:
    """The specs of all families by name; one that cannot be read is logged and left out, and takes down only itself."""
    known = []
    for file in sorted(FOLDER.glob("*/spec.json")):
        try:
            known.append(read_spec(file.parent))
        except SpecError:
            logging.exception("Reelwire: the family %s is left out", file.parent.name)
    return tuple(known)


def programs() -> tuple[str, ...]:
    """The presets of all families that do what the makers' own program does."""
    return tuple(name for spec in specs() for name in spec.programs)


def spec_of(family: str) -> Spec:
    """The spec of the family of this name."""
    return read_spec(FOLDER / family)


def shipped_variants(family: str = "*") -> list[Path]:
    """The folders of the shipped variants of a family, or of all."""
    return sorted(FOLDER.glob(f"{family}/variants/*/"))


def shipped_config(family: str, variant: str, name: str) -> dict[str, Any]:
    """A JSON file of a family's variant; see `Spec.config`."""
    return spec_of(family).config(variant, name)


def with_feature(feature: str) -> tuple[str, ...]:
    """The names of the families that have this feature."""
    assert feature in FEATURES, feature
    return tuple(spec.name for spec in specs() if feature in spec.features)


def titles_with(feature: str) -> tuple[str, ...]:
    """The titles of the models that have this feature."""
    assert feature in FEATURES, feature
    return tuple(dict.fromkeys(title for spec in specs() for title in spec.features.get(feature, ())))


def read_relatives(file: Path) -> tuple[Relative, ...]:
    """The rows of a table of published models; raises SpecError, with the file and the key, for one that is not
    whole."""
    entries = _Entries.read(file)
    rows = _relatives(entries)
    entries.nothing_else()
    return rows


def _relatives(entries: _Entries) -> tuple[Relative, ...]:
    return tuple(_relative(row) for row in entries.inners("relatives", []))


def _relative(row: _Entries) -> Relative:
    relative = Relative(
        title=_words(row.value("title"), row.place("title")),
        has=row.inner("has").shapes(),
        lacks=row.texts("lacks", []),
        remedy=_words(row.value("remedy"), row.place("remedy")),
    )
    row.nothing_else()
    if not relative.has:
        raise SpecError(f"{row.place('has')}: a tensor is needed")
    return relative


def _fits(teacache: _Entries) -> dict[str, tuple[CacheFit, ...]]:
    """Variant -> its published polynomials, or those of the variant that it shares them with."""
    fits: dict[str, tuple[CacheFit, ...]] = {}
    published = teacache.inner("published")
    for variant in published.values:
        fits[variant] = tuple(_fit(entries) for entries in published.inners(variant))
    for variant, other in teacache.named_texts("same_as").items():
        if other not in fits:
            raise SpecError(f"{teacache.place('same_as')}.{variant}: nothing is published for {other}")
        fits[variant] = fits[other]
    return fits


def _fit(entries: _Entries) -> CacheFit:
    fit = CacheFit(
        signal=entries.one_of("signal", SIGNALS),
        coefficients=entries.decimals("coefficients"),
        threshold=entries.decimal("threshold"),
        source=entries.text("source"),
        warmup=entries.number("warmup", 1),
        last=entries.truth("last", True),
    )
    entries.nothing_else()
    return fit


def _limits(entries: _Entries) -> CacheLimits | None:
    """The published limits for SenCache, where there are some."""
    if "sencache" not in entries.values:
        return None
    inner = entries.inner("sencache")
    limits = CacheLimits(
        early=inner.decimal("early"),
        threshold=inner.decimal("threshold"),
        longest=inner.number("longest", 0),
        source=inner.text("source"),
        last=inner.truth("last", True),
    )
    inner.nothing_else()
    return limits


def _words(value: object, place: str) -> str:
    """A text for people: as it stands, a list of things that belong together, {"either": a list of choices}, or
    {"key", "values"} of a message."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return both(*(_words(item, place) for item in value))
    words = _Entries(value, place)
    if words.values.keys() == {"either"}:
        return either(*words.texts("either"))
    values = words.inner("values") if "values" in words.values else _Entries({}, place)
    texts = {name: _words(text, values.place(name)) for name, text in values.values.items()}
    key = words.text("key")
    words.nothing_else()
    try:
        return Message(key, texts)
    except KeyError as error:
        raise SpecError(f"{place}: there is no message or value {error}") from error


class _Entries:
    """A JSON object whose entries are asked for by their type. at: its place, for errors."""

    def __init__(self, values: object, at: str) -> None:
        if not isinstance(values, dict):
            raise SpecError(f"{at}: an object is needed, not {values!r}")
        self.values: dict[str, object] = values
        self.at = at
        self._asked: set[str] = set()

    @classmethod
    def read(cls, file: Path) -> _Entries:
        """The entries of a file."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"{file}: {error}") from error
        return cls(values, str(file))

    def place(self, key: str) -> str:
        return f"{self.at}: {key}"

    def value(self, key: str, default: object = None) -> object:
        """An entry of any type; one without a default must be there."""
        self._asked.add(key)
        value = self.values.get(key, default)
        if value is None:
            raise SpecError(f"{self.place(key)}: it is missing")
        return value

    def inner(self, key: str, default: object = None) -> _Entries:
        return _Entries(self.value(key, default), self.place(key))

    def inners(self, key: str, default: list[object] | None = None) -> list[_Entries]:
        return [_Entries(value, f"{self.place(key)}[{i}]") for i, value in enumerate(self._list(key, default))]

    def shapes(self) -> dict[str, tuple[int | None, ...] | None]:
        """Every entry, each a shape in which null stands for any size, or null for any shape."""
        return {name: None if self.values[name] is None else self._shape(name) for name in self.values}

    def _shape(self, name: str) -> tuple[int | None, ...]:
        return tuple(None if size is None else self._typed(size, int, name) for size in self._list(name))

    def text(self, key: str, default: str | None = None) -> str:
        return self._typed(self.value(key, default), str, key)

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        text = self.text(key)
        if text not in allowed:
            raise SpecError(f"{self.place(key)}: {text!r} is none of {', '.join(allowed)}")
        return text

    def number(self, key: str, default: int) -> int:
        return self._typed(self.value(key, default), int, key)

    def decimal(self, key: str) -> float:
        return self._decimal(self.value(key), key)

    def truth(self, key: str, default: bool) -> bool:
        return self._typed(self.value(key, default), bool, key)

    def texts(self, key: str, default: list[object] | None = None) -> tuple[str, ...]:
        return tuple(self._typed(value, str, key) for value in self._list(key, default))

    def lists(self, key: str) -> tuple[list[object], ...]:
        """Lists; none where there is no such entry."""
        return tuple(self._typed(value, list, key) for value in self._list(key, []))

    def numbers(self, key: str) -> tuple[int, ...]:
        """Whole numbers; none where there is no such entry."""
        return tuple(self._typed(value, int, key) for value in self._list(key, []))

    def decimals(self, key: str) -> tuple[float, ...]:
        return tuple(self._decimal(value, key) for value in self._list(key))

    def named_texts(self, key: str, default: object = None) -> dict[str, str]:
        entries = self.inner(key, default)
        return {name: entries.text(name) for name in entries.values}

    def named_words(self, key: str) -> dict[str, str]:
        """Entries that are texts for people; none where there is no such entry."""
        entries = self.inner(key, {})
        return {name: _words(value, entries.place(name)) for name, value in entries.values.items()}

    def all_texts(self) -> dict[str, tuple[str, ...]]:
        """Every entry, each a list of texts."""
        return {name: self.texts(name) for name in self.values}

    def nothing_else(self) -> None:
        """Raise SpecError for an entry that nobody reads."""
        if strange := self.values.keys() - self._asked:
            raise SpecError(f"{self.at}: nobody reads {', '.join(sorted(strange))}")

    def _list(self, key: str, default: list[object] | None = None) -> list[object]:
        return self._typed(self.value(key, default), list, key)

    def _decimal(self, value: object, key: str) -> float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(self._typed(value, int if whole else float, key))

    def _typed(self, value: object, kind: type[T], key: str) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise SpecError(f"{self.place(key)}: {value!r} is of the wrong type")
        return value
