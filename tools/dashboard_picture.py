#!/usr/bin/env python3
"""Draws a Grafana dashboard as SVG from what a Prometheus answers to its queries.

    dashboard_picture.py [--prometheus URL] [--begin T] [--end T] [--step S] DASHBOARD.json OUT.svg

T: seconds since 1970; without them the last five minutes. S: seconds between two points, at least those
between two scrapes. Variables of the dashboard stand at "All". Bands of panels are as high as their legends
need. <desc> has the dashboard and the names of what was drawn. Knows the types, units and calculations that
data/dashboard.json uses, and fails on others.
"""

import argparse
import datetime
import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request
from xml.sax.saxutils import escape

PAGE, PANEL, EDGE, TEXT, DIM, LINK = "#111217", "#181b1f", "#2b2d33", "#ccccdc", "#8e8f9b", "#6e9fff"
GRID, FIELD, GOOD = "#26282d", "#0c0d11", "#73bf69"
COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#c0d8ff", "#37872d",
           "#fade2a", "#ffa6b0", "#8f3bb8", "#96d98d", "#e0b400", "#c15c17")
WIDTH, MARGIN, GAP, HEAD, ROW = 960, 12, 8, 46, 30
TITLE, AXIS, LINE, PLOT = 34, 20, 17, 112
FONT = 11
# Of characters in parts of the font's size; DejaVu Sans, the widest of the fonts that are asked for.
ADVANCES = {character: advance for characters, advance in (
    ("ijlI' ", 0.3), ("ftr.,:;()[]-/", 0.4), ("ceksvxyzJ_*", 0.56), ("wADGHKNOQRUVXC+", 0.77), ("mWM%", 0.95))
            for character in characters}


# What Prometheus says ---------------------------------------------------------------------------


def range_of(prometheus, query, begin, end, step):
    """[(labels, [(time, value)])] of a query; values that are no number are left out."""
    words = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": step})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{words}", timeout=10) as answer:
        rows = json.load(answer)["data"]["result"]
    found = []
    for row in rows:
        points = [(float(at), float(value)) for at, value in row["values"]]
        found.append((row["metric"], [point for point in points if math.isfinite(point[1])]))
    return found


def query_of(target, board, step):
    """A target's query with "All" for the variables and Grafana's rule for the interval."""
    query = target["expr"].replace("$__rate_interval", f"{4 * step:g}s")
    for variable in board["templating"]["list"]:
        query = query.replace(f'"${variable["name"]}"', f'"{variable.get("allValue", ".*")}"')
    if "$" in query:
        raise ValueError(f"what is meant by $ in {query}?")
    return query


def name_of(target, labels):
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match.group(1), ""),
                  target["legendFormat"])


def series_of(panel, board, prometheus, begin, end, step):
    """[(name, points)] in the order of the queries, then of the names."""
    found = []
    for target in panel["targets"]:
        rows = range_of(prometheus, query_of(target, board, step), begin, end, step)
        found += sorted((name_of(target, labels), points) for labels, points in rows if points)
    return found


# Numbers ----------------------------------------------------------------------------------------


def short(value, digits=3):
    """At most so many digits that matter, none of them a trailing 0."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(value, base, units):
    at = 0
    while abs(value) >= base and at + 1 < len(units):
        value /= base
        at += 1
    return f"{short(value)} {units[at]}".rstrip()


UNITS = {
    "bytes": lambda value: scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
    "percent": lambda value: short(value) + "%",
    "percentunit": lambda value: short(value * 100) + "%",
    "short": lambda value: scaled(value, 1000, ("", "K", "Mil", "Bil")),
    "s": lambda value: short(value * 1000) + " ms" if abs(value) < 1 else short(value) + " s",
}

CALCULATIONS = {
    "lastNotNull": ("Last *", lambda points: points[-1][1]),
    "max": ("Max", lambda points: max(value for _, value in points)),
}


def step_of(size, count, binary):
    """A round step, so that at most count of them make the size."""
    least = size / count
    if binary:
        return 2.0 ** math.ceil(math.log2(least))
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * 0.999)


def ticks_of(series, defaults):
    """Values of the lines across a plot; the first and the last are its edges."""
    values = [value for _, points in series for _, value in points]
    low = defaults.get("min", min(values, default=0))
    high = defaults.get("max", max(values, default=1) * 1.02)
    if high <= low:
        high = low + 1
    step = step_of(high - low, 4, defaults["unit"] == "bytes")
    return [low + step * i for i in range(math.ceil((high - low) / step - 1e-6) + 1)]


# SVG --------------------------------------------------------------------------------------------


def text(x, y, words, fill=TEXT, size=FONT, anchor="start", bold=False):
    weight = ' font-weight="bold"' if bold else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f'{escape(words)}</text>')


def width_of(words, size=FONT):
    return size * sum(ADVANCES.get(character, 0.64) for character in words)


def cut(words, width):
    if width_of(words) <= width:
        return words
    while words and width_of(words + "…") > width:
        words = words[:-1]
    return words + "…"


def runs_of(points, step):
    """Points that follow each other without a gap."""
    run = []
    for point in points:
        if run and point[0] - run[-1][0] > 1.5 * step:
            yield run
            run = []
        run.append(point)
    if run:
        yield run


def clock(at):
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%H:%M:%S")


class Picture:
    def __init__(self, begin, end, step):
        self.begin, self.end, self.step = begin, end, step
        self.parts = []

    def box(self, x, y, width, height, fill, edge=None):
        stroke = f' stroke="{edge}"' if edge else ""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
                          f'fill="{fill}"{stroke}/>')

    def line(self, points, colour, width=1.0, fill="none"):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="{fill}" stroke="{colour}" '
                          f'stroke-width="{width}" stroke-linejoin="round"/>')

    def curve(self, points, place, colour, width=1.5):
        for run in runs_of(points, self.step):
            if len(run) == 1:
                x, y = place(*run[0])
                self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>')
            else:
                self.line([place(*point) for point in run], colour, width)

    # The top of the page and of each panel.

    def head(self, board):
        y = HEAD / 2 + 5
        self.parts.append(text(MARGIN + 2, y, board["title"], size=16, bold=True))
        x = MARGIN + 2 + width_of(board["title"], 16) * 1.1 + 24
        for variable in board["templating"]["list"]:
            value = "prometheus" if variable["type"] == "datasource" else "All"
            label = variable["label"]
            left, right = width_of(label) + 14, width_of(value) + 26
            self.box(x, y - 17, left, 24, PANEL, EDGE)
            self.box(x + left, y - 17, right, 24, FIELD, EDGE)
            self.parts += [text(x + 7, y - 1, label), text(x + left + 8, y - 1, value)]
            self.line([(x + left + right - 13, y - 7), (x + left + right - 10, y - 4),
                       (x + left + right - 7, y - 7)], DIM, 1.2)
            x += left + right + 10
        day = datetime.datetime.fromtimestamp(self.begin, datetime.timezone.utc).strftime("%Y-%m-%d")
        times = f"{day} {clock(self.begin)} to {clock(self.end)} UTC"
        self.box(WIDTH - MARGIN - width_of(times) - 16, y - 17, width_of(times) + 16, 24, PANEL, EDGE)
        self.parts.append(text(WIDTH - MARGIN - 8, y - 1, times, anchor="end"))

    def row(self, panel, y):
        self.line([(MARGIN + 4, y + 12), (MARGIN + 8, y + 16), (MARGIN + 12, y + 12)], TEXT, 1.4)
        self.parts.append(text(MARGIN + 20, y + 18.5, panel["title"], size=13, bold=True))

    def frame(self, panel, x, y, width, height):
        self.box(x, y, width, height, PANEL, EDGE)
        self.parts.append(text(x + 10, y + 20, panel["title"], size=12, bold=True))
        if panel["description"]:
            at = x + 10 + width_of(panel["title"], 12) * 1.15 + 11
            self.parts += [f'<circle cx="{at:.1f}" cy="{y + 16:.1f}" r="5.5" fill="none" stroke="{DIM}"/>',
                           text(at, y + 19.5, "i", DIM, 9, "middle", True)]

    # What stands in it.

    def timeseries(self, panel, series, x, y, width, height):
        unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        bottom = y + height - legend_height(panel, series) - AXIS
        top = y + TITLE
        ticks = ticks_of(series, panel["fieldConfig"]["defaults"])
        labels = [unit(value) for value in ticks]
        left, right = x + 14 + max(map(width_of, labels)), x + width - 14
        low, high = ticks[0], ticks[-1]

        def place(at, value):
            return (left + (right - left) * (at - self.begin) / (self.end - self.begin),
                    bottom - (bottom - top) * (min(max(value, low), high) - low) / (high - low))

        for value, label in zip(ticks, labels):
            height_of_it = place(self.begin, value)[1]
            self.line([(left, height_of_it), (right, height_of_it)], GRID)
            self.parts.append(text(left - 6, height_of_it + 4, label, DIM, anchor="end"))
        self.times(left, right, top, bottom, place)
        if not series:
            self.parts.append(text(x + width / 2, (top + bottom) / 2, "No data", DIM, 13, "middle"))
        for i, (_, points) in enumerate(series):
            self.curve(points, place, COLOURS[i % len(COLOURS)])
        if series:
            self.legend(panel, series, unit, x, bottom + AXIS, width)

    def times(self, left, right, top, bottom, place):
        room = max(1, int((right - left) / 84))
        steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
        step = next((s for s in steps if s * room >= self.end - self.begin), steps[-1])
        at = math.ceil(self.begin / step) * step
        while at <= self.end:
            x = place(at, 0)[0]
            self.line([(x, top), (x, bottom)], GRID)
            if left + 20 <= x <= right - 18:
                self.parts.append(text(x, bottom + 15, clock(at), DIM, 10, "middle"))
            at += step

    def legend(self, panel, series, unit, x, y, width):
        """Name and calculations of each series; the columns of numbers are as wide as they need."""
        left, right = x + 10, x + width - 10
        columns = []
        for title, of in reversed([CALCULATIONS[name] for name in panel["options"]["legend"]["calcs"]]):
            words = [title] + [unit(of(points)) for _, points in series]
            columns.append((right, words))
            right -= max(map(width_of, words)) + 8
        for i, (name, _) in enumerate([("Name", None)] + series):
            at, colour = y + 13 + LINE * i, LINK if i == 0 else TEXT
            if i > 0:
                self.line([(left, at - 12), (x + width - 10, at - 12)], GRID)
                self.box(left, at - 5.5, 13, 3.5, COLOURS[(i - 1) % len(COLOURS)])
            start = left if i == 0 else left + 19
            self.parts.append(text(start, at, cut(name, right - start), colour))
            self.parts += [text(end, at, words[i], colour, anchor="end") for end, words in columns]

    def stat(self, panel, series, x, y, width, height):
        unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        if not series:
            self.parts.append(text(x + width / 2, y + height / 2, "No data", DIM, 13, "middle"))
        for i, (_, points) in enumerate(series):
            each = width / len(series)
            left, low = x + i * each, y + height - 1
            ticks = ticks_of([series[i]], panel["fieldConfig"]["defaults"])

            def place(at, value, left=left, each=each, low=low, ticks=ticks):
                return (left + 1 + (each - 2) * (at - self.begin) / (self.end - self.begin),
                        low - height * 0.4 * (value - ticks[0]) / (ticks[-1] - ticks[0]))

            for run in runs_of(points, self.step):
                drawn = [place(*point) for point in run]
                area = " ".join(f"{px:.1f},{py:.1f}" for px, py in
                                [(drawn[0][0], low), *drawn, (drawn[-1][0], low)])
                self.parts.append(f'<polygon points="{area}" fill="{GOOD}" fill-opacity="0.18"/>')
            self.curve(points, place, GOOD, 1.2)
            self.parts.append(text(left + each / 2, y + height * 0.5, unit(points[-1][1]), GOOD,
                                   min(44, each / 5), "middle", True))


def legend_height(panel, series):
    if panel["type"] != "timeseries" or not series:
        return 10
    return LINE * (1 + len(series)) + 8


def words_of(board, series):
    """All that a picture of these names depends on but figures and times."""
    shown = {f"{panel['id']} {panel['title']}": [name for name, _ in series[panel["id"]]]
             for panel in board["panels"] if panel["id"] in series}
    kept = {key: value for key, value in board.items() if key not in ("version", "time", "refresh")}
    return json.dumps({"shown": shown, "dashboard": kept}, indent=1, sort_keys=True)


def draw(board, series, begin, end, step):
    """The SVG. series: {id of a panel: [(name, [(time, value)])]}."""
    picture = Picture(begin, end, step)
    picture.head(board)
    unit = (WIDTH - 2 * MARGIN + GAP) / 24
    y = HEAD
    for band in sorted({panel["gridPos"]["y"] for panel in board["panels"]}):
        panels = [panel for panel in board["panels"] if panel["gridPos"]["y"] == band]
        if panels[0]["type"] == "row":
            picture.row(panels[0], y)
            y += ROW
            continue
        height = max(TITLE + PLOT + AXIS + legend_height(panel, series[panel["id"]]) for panel in panels)
        for panel in panels:
            x = MARGIN + panel["gridPos"]["x"] * unit
            width = panel["gridPos"]["w"] * unit - GAP
            picture.frame(panel, x, y, width, height)
            draws = {"timeseries": picture.timeseries, "stat": picture.stat}[panel["type"]]
            draws(panel, series[panel["id"]], x, y, width, height)
        y += height + GAP
    height = y - GAP + MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="DejaVu Sans, Verdana, sans-serif">',
        f'<desc>{escape(words_of(board, series))}</desc>',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="{PAGE}"/>', *picture.parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--begin", type=float)
    parser.add_argument("--end", type=float, default=time.time())
    parser.add_argument("--step", type=float, default=1)
    parser.add_argument("board", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    end, step = options.end, options.step
    begin = end - 300 if options.begin is None else options.begin
    board = json.loads(options.board.read_text())
    series = {panel["id"]: series_of(panel, board, options.prometheus, begin, end, step)
              for panel in board["panels"] if panel["type"] != "row"}
    options.out.write_text(draw(board, series, begin, end, step))


if __name__ == "__main__":
    sys.exit(main())
