"""The page: one HTML file and the pictures beside it, without scripts and without anything from elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..config import config, get_num_threads
from ..pictures import save_picture
from ..weights.atomic import replace_file
from .registry import Done

__all__ = ["page_folder", "picture_files", "text", "write_page"]

_MARK = '<meta name="generator" content="cnnfast demo">'
_MOST_ROWS = 15  # of a table that is not folded

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-top: 1px solid #8886; padding-top: 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; min-width: 15rem; border: 1px solid #8886; }
figcaption, .small { font-size: .85rem; opacity: .8; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #8884; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { min-width: 12rem; }
td.bar span { display: inline-block; height: .7rem; margin-right: .4rem; background: #3a7bd5; }
pre { padding: .6rem; background: #8882; overflow-x: auto; }
.note { border-left: 4px solid #d58b3a; padding-left: .6rem; }
"""


def page_folder(folder: str | os.PathLike[str]) -> bool:
    """Make the folder and see that a page can be written there, before there is one.

    Returns
    -------
    bool
        Whether the folder is new.

    Raises
    ------
    OSError
        If it is no folder that can be written to, or holds an index.html of somebody else.
    """
    path = Path(folder)
    new = not path.exists()
    if not (new or path.is_dir()):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.mkdir(parents=True, exist_ok=True)
    index = path / "index.html"
    if index.exists() and _MARK not in index.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(
            errno.EEXIST, "is there already and not of cnnfast demo; choose another folder", str(index)
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return new


def picture_files(done: Sequence[Done]) -> list[str]:
    """Names of the files that the pictures go to."""
    return [f"{picture.name}.png" for one in done for picture in one.shown.pictures]


def write_page(folder: str | os.PathLike[str], done: Sequence[Done]) -> Path:
    """Write the pictures, and then index.html at once: it is never there in part.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    done : sequence of Done

    Returns
    -------
    Path
        That of index.html.

    Raises
    ------
    OSError
    """
    page_folder(folder)
    path = Path(folder)
    for one in done:
        for picture in one.shown.pictures:
            save_picture(path / f"{picture.name}.png", picture.pixels)
    index = path / "index.html"
    with replace_file(str(index)) as file:
        file.write(_page(done).encode())
    return index


def _page(done: Sequence[Done]) -> str:
    facts = config()
    native = facts["native"]
    runs = f"{native['cpu']}, level {native['isa']}" if native["available"] else "NumPy alone"
    seconds = sum(one.seconds for one in done)
    contents = [f'<li><a href="#{one.part.name}">{escape(one.part.title)}</a></li>' for one in done]
    lines = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">', _MARK,
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>cnnfast</title><style>{_STYLE}</style></head><body>",
        "<h1>cnnfast</h1>",
        f"<p>What version {escape(facts['version'])} makes of the pictures that come with it, in "
        f"{seconds:.1f} s; backend {facts['backend']}, {escape(runs)}, threads: {get_num_threads()}. "
        "Nothing was fetched.</p>",
        "<ul>", *contents, "</ul>",
    ]  # fmt: skip
    for one in done:
        lines += _section(one)
    return "\n".join([*lines, "</body></html>", ""])


def _section(one: Done) -> list[str]:
    shown = one.shown
    lines = [f'<h2 id="{one.part.name}">{escape(one.part.title)}</h2>', f"<p>{escape(shown.words)}</p>"]
    lines += [f'<p class="note">{escape(note)}</p>' for note in shown.notes]
    if shown.pictures:
        lines.append('<div class="pictures">')
        for picture in shown.pictures:
            h, w = picture.pixels.shape[:2]
            image = f'<img src="{picture.name}.png" width="{w}" height="{h}" alt="{escape(picture.caption)}">'
            lines.append(f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>")
        lines.append("</div>")
    if shown.numbers:
        told = "; ".join(f"{escape(name)}: <b>{escape(text(n))}</b>" for name, n in shown.numbers.items())
        lines.append(f"<p>{told}</p>")
    if shown.table:
        lines += _table(shown.table)
    lines.append(f"<pre>{escape(one.part.command)}</pre>")
    lines.append(f'<p class="small">This part took {one.seconds:.2f} s.</p>')
    return lines


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in rows[0])
    lines = ["<table>", f"<tr>{head}</tr>"]
    lines += ["<tr>" + "".join(_cell(*pair) for pair in row.items()) + "</tr>" for row in rows]
    lines.append("</table>")
    if len(rows) > _MOST_ROWS:
        return [f"<details><summary>{len(rows)} rows</summary>", *lines, "</details>"]
    return lines


def _cell(heading: str, value: Any) -> str:
    if heading == "share":
        return f'<td class="bar"><span style="width: {10 * value:.2f}rem"></span>{100 * value:.1f} %</td>'
    kind = ' class="number"' if isinstance(value, (int, float)) else ""
    return f"<td{kind}>{escape(text(value))}</td>"


def text(value: Any) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return (
            f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) < 10 else f"{value:.1f}"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)
