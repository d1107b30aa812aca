"""Letters in pictures: Latin, Greek, Cyrillic, kana and the 3755 most used Chinese signs from the font beside this, so
that a picture looks alike everywhere; what it lacks comes from the system's fonts where they have it, else a box."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

OWN = Path(__file__).parent / "font" / "NotoSansSC-part.otf"
# fonts with many signs as Linux, Windows and macOS have them; Pillow looks for them in the system's folders
OF_SYSTEMS = (
    *("NotoSansCJK-Regular.ttc", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "simsun.ttc", "malgun.ttf", "segoeui.ttf", "seguisym.ttf", "seguiemj.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf"),
)
NO_SIGN = "\uffff"  # of which no font has a picture: what it draws, it draws for all that it lacks
BOX, ELLIPSIS = "□", "…"


class Lettering:
    """Writes texts. lacking: the signs so far that no font here has."""

    def __init__(self) -> None:
        self.lacking = dict[str, None]()

    def parts(self, text: str, size: int) -> list[tuple[str, FreeTypeFont]]:
        """A text in the parts that one font has, with it."""
        signs = [self._drawn(sign) for sign in text]
        runs = groupby(signs, key=lambda pair: pair[1])
        return [("".join(sign for sign, _ in run), _font(name, size)) for name, run in runs]

    def width(self, text: str, size: int) -> int:
        """Pixels of a line."""
        return sum(round(font.getlength(part)) for part, font in self.parts(text, size))

    def fitted(self, text: str, size: int, room: int) -> str:
        """As much of a line as there is room for."""
        if self.width(text, size) <= room:
            return text
        while text and self.width(text + ELLIPSIS, size) > room:
            text = text[:-1]
        return text.rstrip() + ELLIPSIS

    def _drawn(self, sign: str) -> tuple[str, str]:
        """(what is drawn for a sign, the font that has it)."""
        name = _font_of(sign)
        if name is None:
            self.lacking[sign] = None
        return (BOX, str(OWN)) if name is None else (sign, name)


@lru_cache(4096)
def _font_of(sign: str) -> str | None:
    """The first font that has a sign; None where none has."""
    return next((name for name in (str(OWN), *_found()) if _has(name, sign)), None)


@cache
def _found() -> tuple[str, ...]:
    """Those of OF_SYSTEMS that are here."""
    return tuple(name for name in OF_SYSTEMS if _opened(name, 16) is not None)


def _has(name: str, sign: str) -> bool:
    """Whether a font has a sign: what it lacks looks like what no font has."""
    font = _font(name, 16)
    return bytes(font.getmask(sign)) != bytes(font.getmask(NO_SIGN)) or font.getbbox(sign) != font.getbbox(NO_SIGN)


def _font(name: str, size: int) -> FreeTypeFont:
    font = _opened(name, size)
    assert font is not None
    return font


@lru_cache(64)
def _opened(name: str, size: int) -> FreeTypeFont | None:
    """A font by its file or by its file's name; None where it is not here."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ValueError):
        return None
