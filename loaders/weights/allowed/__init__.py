"""Allow-lists: a stranger's config reaches diffusers and transformers by way of these alone.

Keys, types and ranges are data: the tables beside this file, and the signatures of the classes. A value of another type
or out of its range is refused; a key that nobody reads is left out and named, so that a newer file still opens.
"""

from __future__ import annotations

from ...messages import CheckpointError, message
from ...parts import Config as Values
from ...parts import JsonObject
from ..configs import Config
from ..json_files import excerpt
from .rules import Rule, Rules, Shapes, kinds, of_class, table

__all__ = ["Rules", "Shapes", "allowed", "kinds", "of_class", "table", "wrong_entry"]
NAME = 64  # characters of a name that a file chooses
_NAMED = 5  # keys in a note


def allowed(values: Values, rules: Rules, shapes: Shapes, file: str) -> tuple[Config, tuple[str, ...]]:
    """What a config may say, and a note on the entries that are not used. file: its name.

    Raises CheckpointError for an entry of the wrong type or out of its range.
    """
    unused: list[str] = []
    clean = _clean(values, rules, shapes, file, "", unused)
    if not unused:
        return Config(clean, file), ()
    names = ", ".join(excerpt(name, 60) for name in unused[:_NAMED]) + (", ..." if len(unused) > _NAMED else "")
    return Config(clean, file), (message("config_not_used", file=file, count=len(unused), names=names),)


def _clean(values: Values, rules: Rules, shapes: Shapes, file: str, place: str, unused: list[str]) -> JsonObject:
    clean: JsonObject = {}
    for key, value in values.items():
        rule = rules.entries.get(key)
        if rule is not None and (value is not None or not rule.null or rules.nulls):
            known = _value(value, rule, shapes, file, f"{place}{key}", unused)
            clean[key] = float(known) if rules.floats and rule.kind == "number" and isinstance(known, int) else known
        elif rule is None and key not in rules.silent:
            unused.append(f"{place}{key}")
    if wrong := rules.disagreement(clean):
        raise CheckpointError(message("config_disagrees", file=file, rule=wrong), message("download_again"))
    return clean


def _value(value: object, rule: Rule, shapes: Shapes, file: str, place: str, unused: list[str]) -> object:
    """A value as it may be, without what nobody reads in it."""
    if rule.inner is not None and isinstance(value, dict):
        if not rule.anything:
            return _clean(value, rule.inner, shapes, file, f"{place}.", unused)
        if len(value) > rule.anything or any(len(name) > NAME for name in value):
            rule_words = message("config_names", file=file, key=place, most=rule.anything, longest=NAME)
            raise CheckpointError(rule_words, message("download_again"))
        return {
            name: _value(inner, Rule("object", inner=rule.inner), shapes, file, f"{place}.{name}", unused)
            for name, inner in value.items()
        }
    if fault := rule.fault(value, shapes):
        raise wrong_entry(file, place, value, fault)
    return value


def wrong_entry(file: str, key: str, value: object, rule: str) -> CheckpointError:
    """That an entry of a config is not what it must be."""
    words = message("config_entry", file=file, key=excerpt(key, 80), value=excerpt(value, 80), rule=rule)
    return CheckpointError(words, message("download_again"))
