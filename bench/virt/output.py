"""The report as JSON, markdown and SVG, and as lines on the terminal."""

import json
import os

import arithmetic
import catalogue
import plot


class Report:
    """What was measured so far; every change of it is on disk at once."""

    def __init__(self, folder, head):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.head = head
        self.rows = {}  # key -> {"values": {column: number}, "notes": [text]}
        self.skipped = {}  # key -> why
        self.failures = []
        self.series = {}  # name -> panels of a plot

    def _row(self, key):
        return self.rows.setdefault(key, {"values": {}, "notes": []})

    def put(self, key, column, value):
        if key not in catalogue.BY_KEY:
            raise KeyError(key)
        self._row(key)["values"][column] = value
        self.skipped.pop(key, None)

    def put_added(self, key, low, middle, high):
        self._row(key)["added"] = {"low": low, "median": middle, "high": high}

    def note(self, key, text):
        self._row(key)["notes"].append(text)

    def skip(self, keys, why):
        for key in keys:
            if not self.is_measured(key):
                self.skipped[key] = why

    def fail(self, name, why):
        self.failures.append({"measurement": name, "why": why})

    def spoil(self, key, column, why):
        """A figure that would look good and is not: its verdict is "missed"."""
        self._row(key).setdefault("spoiled", {})[column] = why

    def is_measured(self, key):
        row = self.rows.get(key)
        return bool(row and (row["values"] or "added" in row))

    # --- verdicts

    def verdict(self, metric):
        row = self.rows.get(metric.key)
        if metric.bound is None or row is None:
            return None
        verdicts = []
        for column in metric.judged:
            if column == "added":
                if "added" in row:
                    added = row["added"]
                    verdicts.append(arithmetic.verdict(added["low"], added["high"], metric.bound))
            elif column in row.get("spoiled", {}):
                verdicts.append("missed")
            elif column in row["values"]:
                value = row["values"][column]
                verdicts.append(arithmetic.verdict(value, value, metric.bound))
        return arithmetic.worst(verdicts)

    def as_json(self):
        rows = []
        for metric in catalogue.METRICS:
            row = {
                "key": metric.key,
                "id": metric.id,
                "name": metric.name,
                "unit": metric.unit,
                "better": metric.better,
                "formula": metric.ours,
                "published": metric.published,
                **self.rows.get(metric.key, {"values": {}, "notes": []}),
            }
            if metric.bound:
                row["bound"] = f"{metric.bound[0]} {metric.bound[1]:g}"
                row["verdict"] = self.verdict(metric) or "not measured"
            if metric.key in self.skipped:
                row["skipped"] = self.skipped[metric.key]
            rows.append(row)
        return {
            **self.head,
            "rows": rows,
            "left_out": dict(catalogue.LEFT_OUT),
            "failures": self.failures,
        }

    def save(self):
        """JSON and markdown, each replaced as a whole."""
        for name, text in (
            ("report.json", json.dumps(self.as_json(), indent=1) + "\n"),
            ("report.md", self.markdown()),
        ):
            path = os.path.join(self.folder, name)
            with open(path + ".new", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(path + ".new", path)

    # --- text

    def _figure(self, metric, column):
        row = self.rows.get(metric.key, {"values": {}})
        return number(row["values"].get(column), metric.digits)

    def _added(self, metric):
        added = self.rows.get(metric.key, {}).get("added")
        if not added:
            return ""
        return "{:+.2f} ({:+.2f} to {:+.2f})".format(added["median"], added["low"], added["high"])

    def _bound(self, metric):
        if not metric.bound:
            return ""
        text = f"{metric.bound[0]} {metric.bound[1]:g}"
        return f"{text}: {self.verdict(metric) or 'not measured'}"

    def line(self, key):
        """What was measured under a key, as one line."""
        metric = catalogue.BY_KEY[key]
        figures = "  ".join(
            f"{column} {self._figure(metric, column)}"
            for column in catalogue.COLUMNS
            if column in self.rows.get(key, {"values": {}})["values"]
        )
        added = f"  added {self._added(metric)}" if self._added(metric) else ""
        bound = f"  [{self._bound(metric)}]" if metric.bound else ""
        return f"{metric.key:<9} {metric.name:<36} {metric.unit:<11} {figures}{added}{bound}"

    def markdown(self):
        lines = [f"Where: {self.head['where']}; {self.head['date']}; "
                 f"{self.head['seconds']:g} s per run of a load.", ""]
        lines += [f"- {column}: {text}" for column, text in catalogue.COLUMN_TEXT.items()]
        lines += ["", "| id | metric | unit, better | native | none | 99 | 25 % | 50 % | bound |",
                  "|---|---|---|---|---|---|---|---|---|"]
        for metric in catalogue.METRICS:
            if not self.is_measured(metric.key):
                continue
            figures = " | ".join(self._figure(metric, column) for column in catalogue.COLUMNS)
            added = f"added {self._added(metric)}" if self._added(metric) else ""
            bound = "; ".join(part for part in (self._bound(metric), added) if part)
            better = f", {metric.better}" if metric.better else ""
            lines.append(f"| {metric.key} | {metric.name} | {metric.unit}{better} | {figures} | "
                         f"{bound} |")
        lines += [""] + self._notes()
        missing = [m for m in catalogue.METRICS if not self.is_measured(m.key)]
        if missing:
            lines += ["Not measured: " + "; ".join(
                f"{m.key} ({self.skipped.get(m.key, 'not reached')})" for m in missing) + ".", ""]
        lines += formulas()
        return "\n".join(lines) + "\n"

    def _notes(self):
        notes = [f"- {key}: {text}" for key, row in self.rows.items() for text in row["notes"]]
        notes += [f"- {key}, column {column}: {why}" for key, row in self.rows.items()
                  for column, why in row.get("spoiled", {}).items()]
        notes += [f"- {failure['measurement']} failed: {failure['why']}" for failure in self.failures]
        return notes + [""] if notes else []

    def summary(self):
        """Counts, and whether nothing with a bound was missed."""
        verdicts = {m.key: self.verdict(m) for m in catalogue.METRICS if m.bound}
        count = {
            word: [key for key, one in verdicts.items() if (one or "not measured") == word]
            for word in ("holds", "undecided", "missed", "not measured")
        }
        measured = sum(self.is_measured(metric.key) for metric in catalogue.METRICS)
        text = f"{measured} rows; bounds: " + ", ".join(
            f"{len(keys)} {word}" + (f" ({' '.join(keys)})" if keys and word != "holds" else "")
            for word, keys in count.items()
        )
        return text, not count["missed"]

    def plots(self):
        """One SVG for each set of series that was kept."""
        for name, (title, panels) in self.series.items():
            with open(os.path.join(self.folder, f"{name}.svg"), "w", encoding="utf-8") as file:
                file.write(plot.share_over_time(title, panels))


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def formulas():
    """What each row is, what the published code computes, and what is left out."""
    lines = ["| id | here | published |", "|---|---|---|"]
    lines += [f"| {m.key} | {m.ours} | {m.published} |" for m in catalogue.METRICS]
    lines += ["", "| left out | why |", "|---|---|"]
    lines += [f"| {name} | {why} |" for name, why in catalogue.LEFT_OUT]
    return lines
