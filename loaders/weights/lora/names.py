"""The layers of a file -> those of a network: names, fused layers that are divided, and what does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ...parts import Part
from ..entry import Entry
from ..format import CheckpointFormat
from .delta import BESIDE, PARAMETER, Delta
from .keys import Key
from .products import product_shape
from .settings import Settings

PRODUCT = "product"
# what a layer of a file may hold -> the tensor of the network that it changes
_UNITS = {PRODUCT: "weight", "diff": "weight", "bias": "bias", "up_bias": "bias", "modulation": "modulation"}
_MAGNITUDES = ("magnitude", "dora_scale")


@dataclass
class Fitting:
    """What of a file fits a network.

    deltas: layer of the network -> what it gets.
    absent, reshaped, incomplete: names of what does not: no such layer, another size, or a part that is missing.
    unknown: keys of an unknown kind.
    sizes: of the first one of another size: in the file, and in the network.
    fitting: how many things do.
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    sizes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    fitting: int = 0

    @property
    def wrong(self) -> list[str]:
        """All names of what does not fit."""
        return [*self.absent, *self.reshaped, *self.incomplete, *self.unknown]

    def add(self, name: str, delta: Delta) -> None:
        """Give a layer of the network one more thing."""
        known = self.deltas.get(name)
        if known is not None:  # what belongs to a product is the product's
            whole = delta if delta.shape else known
            delta = replace(whole, tensors={**known.tensors, **delta.tensors})
        self.deltas[name] = delta


@dataclass(frozen=True)
class FileLayer:
    """One layer of a file. name: with dots, without prefixes; tensors: by role; shape: of its product, or None."""

    name: str
    tensors: Mapping[str, Entry]
    alpha: float | None
    rank: int | None
    root: bool
    shape: tuple[int, ...] | None

    @property
    def factors(self) -> dict[str, Entry]:
        """The tensors of its product."""
        return {r: e for r, e in self.tensors.items() if r not in BESIDE and r not in _MAGNITUDES and r not in _UNITS}

    @property
    def incomplete(self) -> bool:
        """Whether it lacks something, or what it has does not go together."""
        alpha = self.tensors.get("alpha")
        if alpha is not None and math.prod(alpha.shape) != 1:
            return True
        magnitudes = [*map(self.tensors.get, _MAGNITUDES)]
        return (self.shape is None and bool(self.factors or any(magnitudes))) or not {*self._units()}

    def _units(self) -> Iterator[str]:
        if self.shape is not None:
            yield PRODUCT
        yield from (unit for unit in _UNITS if unit in self.tensors)

    def units(self) -> Iterator[tuple[str, Entry]]:
        """(unit, an entry of its shape) of all that it holds."""
        for unit in self._units():
            if unit == PRODUCT:
                assert self.shape is not None
                any_factor = next(iter(self.factors.values()))
                yield unit, Entry(any_factor.file, any_factor.key, self.shape, "F32")
            else:
                yield unit, self.tensors[unit]


def fit(
    keys: Mapping[str, Key], entries: Mapping[str, Entry], form: CheckpointFormat, part: Part, settings: Settings
) -> Fitting:
    """The layers of one expert in a file, as far as they fit the network."""
    fitting = Fitting(unknown=[text for text, key in keys.items() if not key.role])
    layers = _layers(keys, entries, _Names(form, part), settings)
    fitting.incomplete += [name for name, layer in layers.items() if layer.incomplete]
    sound = {name: layer for name, layer in layers.items() if not layer.incomplete}
    for unit in _UNITS:
        own = {name: entry for name, layer in sound.items() for kind, entry in layer.units() if kind == unit}
        for name, targets in _targets(own, _UNITS[unit], form, part).items():
            _place(fitting, sound[name], unit, targets, part)
    return fitting


class _Names:
    """A network's names for those of files: what underscores stand for, and layers within a list of one."""

    def __init__(self, form: CheckpointFormat, part: Part) -> None:
        self._known = {name.rpartition(".")[0] for name in part.tensors} | {*part.tensors}
        self._flat = {name.replace(".", "_"): name for name in self._known}
        self._words = sorted(form.underscored, key=len, reverse=True)

    def dotted(self, layer: str, flat: bool) -> str:
        """A layer's name with dots."""
        name = (self._flat.get(layer) or self._guessed(layer)) if flat else layer
        return f"{name}.0" if name not in self._known and f"{name}.0" in self._known else name

    def _guessed(self, flat: str) -> str:
        """Kohya's underscores as dots, but for those inside the makers' own words."""
        for word in self._words:
            flat = re.sub(rf"(?<![a-z]){word}(?![a-z])", word.replace("_", "\0"), flat)
        return flat.replace("_", ".").replace("\0", "_")


def _layers(
    keys: Mapping[str, Key], entries: Mapping[str, Entry], names: _Names, settings: Settings
) -> dict[str, FileLayer]:
    """Name -> layer of the file."""
    roles: dict[str, dict[str, Entry]] = {}
    for text, key in keys.items():
        if key.role:
            roles.setdefault(names.dotted(key.layer, key.flat), {})[key.role] = entries[text]
    layers = {}
    for name, tensors in roles.items():
        bare = FileLayer(name, tensors, *settings.of(name), settings.root, None)
        shapes = {role: entry.shape for role, entry in bare.factors.items()}
        layers[name] = replace(bare, shape=product_shape(shapes) if shapes else None)
    return layers


def _targets(
    own: Mapping[str, Entry], ending: str, form: CheckpointFormat, part: Part
) -> dict[str, list[tuple[str, Entry]]]:
    """Layer of the file -> (tensor of the network, what it gets of the entry); fused layers have several.

    Renaming works on rows, so what it does to a weight it does to any entry of that shape.
    """
    targets: dict[str, list[tuple[str, Entry]]] = {}
    proxies = {f"{name}.{ending}": replace(entry, key=name) for name, entry in own.items()}
    known = {text: proxy for text, proxy in proxies.items() if text in part.tensors or proxy.key in part.tensors}
    renamed = form.rename({text: proxy for text, proxy in proxies.items() if text not in known}, part.tensors)
    for text, proxy in (known | renamed).items():
        targets.setdefault(proxy.key, []).append((text, replace(proxy, key=own[proxy.key].key)))
    return targets


def _place(fitting: Fitting, layer: FileLayer, unit: str, targets: list[tuple[str, Entry]], part: Part) -> None:
    """Put one thing of a layer where it belongs, or on the list of what does not fit."""
    owners = tuple(text.rpartition(".")[0] for text, _ in targets)
    for text, entry in targets:
        owner = text.rpartition(".")[0]
        wanted, parameter = _wanted(text, unit, part)
        if wanted is None:
            fitting.absent.append(layer.name if unit in (PRODUCT, "diff") else f"{layer.name}.{_UNITS[unit]}")
            return
        if not _same(entry.shape, wanted) or entry.transposed:
            fitting.reshaped.append(layer.name)
            fitting.sizes = fitting.sizes if fitting.sizes[0] else (entry.shape, wanted)
            return
        if parameter:
            delta = Delta({PARAMETER: entry.reshape(*wanted)})
        elif unit == PRODUCT:
            delta = _product(layer, entry, wanted, owners)
        else:
            delta = Delta({unit: entry.reshape(*wanted)})
        fitting.add(parameter or owner, delta)
    fitting.fitting += 1


def _wanted(text: str, unit: str, part: Part) -> tuple[tuple[int, ...] | None, str]:
    """(the shape of what a tensor's name stands for in the network, the parameter if it belongs to no layer)."""
    owner = text.rpartition(".")[0]
    if unit == "up_bias" and f"{owner}.weight" in part.tensors:
        return part.tensors[f"{owner}.weight"][:1], ""
    if text in part.tensors and unit != "modulation":
        return part.tensors[text], ""
    parameter = text if text in part.tensors else owner if owner in part.tensors else ""
    return (part.tensors[parameter] if parameter and unit in ("diff", "modulation") else None), parameter


def _same(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether numbers of one shape can stand for the other: outputs are outputs."""
    if wanted[:1] == (1,) or shape[:1] == (1,):
        return math.prod(shape) == math.prod(wanted)
    return shape[:1] == wanted[:1] and math.prod(shape) == math.prod(wanted)


def _product(layer: FileLayer, entry: Entry, weight: tuple[int, ...], owners: tuple[str, ...]) -> Delta:
    """A product of a file's layer, or the rows of it that are this layer's."""
    tensors, rows = dict(layer.factors), entry.rows
    if {"down", "up"} == tensors.keys():  # the rows of `up` are those of the product
        up, down = tensors["up"], tensors["down"]
        if rows:
            tensors["up"], rows = replace(up, shape=(weight[0], *up.shape[1:]), rows=rows), ()
        tensors["down"] = down.reshape(down.shape[0], *weight[1:])
    assert layer.shape is not None
    delta = Delta(tensors, layer.alpha, layer.rank, layer.root, layer.shape, rows, owners)
    magnitude = {role: layer.tensors[role] for role in _MAGNITUDES if role in layer.tensors}
    extra = {"alpha": layer.tensors["alpha"]} if "alpha" in layer.tensors else {}
    for role, each in magnitude.items():
        count, by_row = math.prod(each.shape), role == "magnitude" or each.shape[0] == layer.shape[0]
        if by_row and count == layer.shape[0]:
            flat = each.reshape(count)
            extra["magnitude"] = replace(flat, shape=weight[:1], rows=entry.rows) if entry.rows else flat
        else:
            extra["column_magnitude"] = each.reshape(count)
    return replace(delta, tensors={**tensors, **extra})
