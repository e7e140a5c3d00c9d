"""Every application on pictures that come with the package, and a page that shows what they made of them."""

from __future__ import annotations

from .page import write_page
from .registry import Done, Part, Picture, Shown, names, run

__all__ = ["Done", "Part", "Picture", "Shown", "names", "run", "write_page"]
