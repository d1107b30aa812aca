"""What a farm has done, as a page and as a table."""

from __future__ import annotations

import csv
import html
import json
from dataclasses import asdict, fields
from pathlib import Path

from .jobs import FarmJob
from .store import Record, Store

STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left;vertical-align:top}.no{background:#fdd}"
)


def write_reports(store: Store, jobs: list[FarmJob]) -> tuple[Path, Path]:
    """report.html and report.csv of a list of jobs, in its order."""
    rows = [(job, store.records.get(job.key) or Record(job.key, job.digest, error="not made yet")) for job in jobs]
    table, page = store.folder / "report.csv", store.folder / "report.html"
    names = [each.name for each in fields(Record)]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["line", *names, "inputs"])
        for job, record in rows:
            values = asdict(record)
            writer.writerow([job.line, *(values[n] for n in names), json.dumps(dict(job.inputs), ensure_ascii=False)])
    page.write_text(_page(rows), encoding="utf-8")
    return page, table


def _page(rows: list[tuple[FarmJob, Record]]) -> str:
    made = [record for _, record in rows if record.file]
    seconds = sorted(record.seconds for record in made)
    middle = f"{seconds[len(seconds) // 2]:.1f} s" if seconds else "-"
    machines = len({record.machine.partition(" (")[0] for record in made})
    head = f"{len(made)} of {len(rows)} files, {len(rows) - len(made)} missing, median {middle}, {machines} machine(s)"
    columns = ("line", "file", "seconds", "RAM, GB", "card, GB", "machine", "tries", "inputs", "error")
    lines = "".join(_row(job, record) for job, record in rows)
    titles = "".join(f"<th>{title}</th>" for title in columns)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Farm</title><style>{STYLE}</style>'
        f"<h1>Farm</h1><p>{head}</p><table><tr>{titles}</tr>{lines}</table></html>"
    )


def _row(job: FarmJob, record: Record) -> str:
    name = html.escape(record.file)
    cells = (
        str(job.line),
        f'<a href="{name}">{name}</a>' if name else "",
        f"{record.seconds:.1f}" if record.file else "",
        f"{record.ram / 2**30:.2f}" if record.ram else "",
        f"{record.vram / 2**30:.2f}" if record.vram else "",
        html.escape(record.machine),
        str(record.tries or ""),
        html.escape(json.dumps(dict(job.inputs), ensure_ascii=False)),
        html.escape(record.error),
    )
    return f"<tr{'' if record.file else ' class=no'}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
