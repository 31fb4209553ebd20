"""Share of the GPU over time as SVG: one panel per mode, one line per process."""

from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, TOP, GAP = 760, 170, 56, 52, 34
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")
BUCKET = 0.1  # seconds, as in series.h


def _text(x, y, text, size=12, anchor="start", colour="#333"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _line(x1, y1, x2, y2, colour, dash=""):
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{style}/>'
    )


def _panel(top, panel, seconds, highest):
    height, width = PANEL - GAP, WIDTH - LEFT - 20

    def at(time, percent):
        return LEFT + width * time / seconds, top + height * (1 - percent / highest)

    parts = [_text(LEFT, top - 6, panel["title"], 13)]
    step = 25 if highest > 60 else 10 if highest > 20 else 5
    for percent in range(0, int(highest) + 1, step):
        x, y = at(0, percent)
        parts += [_line(x, y, LEFT + width, y, "#e4e4e4"), _text(x - 6, y + 4, f"{percent}", 11, "end")]
    for second in range(int(seconds) + 1):
        x, y = at(second, 0)
        parts.append(_text(x, y + 15, f"{second} s", 11, "middle"))
    for limit in sorted({row["limit"] for row in panel["rows"] if row["limit"]}):
        (x1, y), (x2, _) = at(0, limit), at(seconds, limit)
        parts.append(_line(x1, y, x2, y, "#777", "4 3"))
    for number, row in enumerate(panel["rows"]):
        points = [
            at(row["offset"] + (i + 0.5) * BUCKET, min(percent, highest))
            for i, percent in enumerate(row["series"])
        ]
        parts.append(
            '<polyline fill="none" stroke-width="1.6" stroke="{}" points="{}"/>'.format(
                COLOURS[number % len(COLOURS)], " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            )
        )
    return parts


def share_over_time(title, panels):
    """panels: [{"title", "rows": [{"label", "series": percent per bucket, "limit", "offset"}]}].

    Dashed lines are limits. Returns the text of the SVG.
    """
    rows = [row for panel in panels for row in panel["rows"]]
    seconds = max(row["offset"] + len(row["series"]) * BUCKET for row in rows)
    most = max(max(row["series"], default=0) for row in rows)
    limits = [row["limit"] or 0 for row in rows]
    highest = min(100, max(10, 1.1 * most, 1.2 * max(limits)))
    height = TOP + len(panels) * PANEL + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 18, title + ": share of the GPU in percent, 100 ms means", 14),
    ]
    # Jobs in the order of the first panel; a job of several processes has a line for each.
    for number, row in enumerate(panels[0]["rows"]):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_text(LEFT + 84 * number, 34, row["label"], 11, colour=colour))
    for number, panel in enumerate(panels):
        parts += _panel(TOP + number * PANEL + 8, panel, seconds, highest)
    return "\n".join(parts + ["</svg>"]) + "\n"
