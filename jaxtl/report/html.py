"""A report as one file for a browser: nothing is loaded from anywhere, and nothing in it runs."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from jaxtl import files
from jaxtl.report.files import png
from jaxtl.report.page import Section
from jaxtl.report.plots.comparison import Plot, finished
from jaxtl.report.tables import Table
from jaxtl.text import printable

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#262626}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;border-bottom:1px solid #e4e4e4;text-align:right;white-space:nowrap}
th{border-bottom:2px solid #8c8c8c}.w{text-align:left}
code{background:#f2f2f2;padding:.15rem .35rem;border-radius:3px;overflow-wrap:anywhere}
.note{background:#fff4d6;padding:.5rem .8rem;border-left:4px solid #e69f00}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}figcaption{color:#666;font-size:.9rem}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # of what strangers have named, nothing acts


def write_html(
    path: Path, title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section], notice: str = ""
) -> Path:
    """Write a page with its pictures inside.

    Args:
        path: of the file.
        title: above all.
        facts: (name, words); a word between backquotes is shown as code.
        sections: in their order.
        notice: what has to be known first.

    Raises:
        InputError: it cannot be written.
    """
    plots, _ = finished([plot for section in sections for plot in section.plots], "")
    drawn = iter(plots)
    parts = [f"<h1>{_safe(title)}</h1>"]
    parts += [f'<p class="note">{_safe(notice)}</p>'] if notice else []
    parts += [f"<ul>{''.join(f'<li>{_safe(name)}: {_coded(words)}</li>' for name, words in facts)}</ul>"]
    for section in sections:
        parts.append(f"<h2>{_safe(section.heading)}</h2>")
        parts += [_table(table) for table in section.tables]
        parts += [f"<ul>{''.join(f'<li>{_coded(line)}</li>' for line in section.lines)}</ul>"] if section.lines else []
        parts += [_figure(next(drawn)) for _ in section.plots]
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += f'<meta name="viewport" content="width=device-width"><title>{_safe(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return files.write(path, f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n')


def _safe(text: str) -> str:
    return html.escape(printable(text))


def _coded(text: str) -> str:
    """With what stands between two backquotes as code."""
    pieces = re.split(r"`([^`]+)`", text)  # every second one stood between two
    return "".join(f"<code>{_safe(one)}</code>" if k % 2 else _safe(one) for k, one in enumerate(pieces))


def _table(table: Table) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        marks = [' class="w"' if k in table.words else "" for k in range(len(cells))]
        return (
            f"<tr>{''.join(f'<{kind}{at}>{_safe(cell)}</{kind}>' for at, cell in zip(marks, cells, strict=True))}</tr>"
        )

    return f"<table>{row(table.columns, 'th')}{''.join(row(cells, 'td') for cells in table.rows)}</table>"


def _figure(plot: Plot) -> str:
    data = base64.b64encode(png(plot)).decode()
    said = _safe(plot.caption)
    return f'<figure><img alt="{said}" src="data:image/png;base64,{data}"><figcaption>{said}</figcaption></figure>'
