"""A terminal: what a program draws on it, as a grid of characters, as text, as SVG.

Understands what ncurses and our own programs send to TERM=xterm, and fails on anything else, so that a
picture never shows what a terminal would not.
"""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from xml.sax.saxutils import escape

COLOURS = {1: "#e5534b", 2: "#57ab5a", 3: "#c69026", 4: "#539bf5", 5: "#b083f0", 6: "#39c5cf"}
PLAIN, DIM, BACKGROUND = "#d0d7de", "#848d97", "#1c2128"
CELL_WIDTH, CELL_HEIGHT, FONT = 8.4, 18, 14


class Unknown(Exception):
    pass


class Screen:
    def __init__(self, width, height):
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.rest = ""
        self.style = (None, False, False)  # colour, bold, dim
        self.x = self.y = 0
        self.last = " "
        self.resize(width, height)

    def resize(self, width, height):
        self.width, self.height = width, height
        self.region = (0, height - 1)
        self.cells = [self._blank() for _ in range(height)]
        self.x, self.y = min(self.x, width - 1), min(self.y, height - 1)

    def _blank(self):
        return [(" ", (None, False, False))] * self.width

    def text(self):
        return "\n".join("".join(c for c, _ in row).rstrip() for row in self.cells)

    # What arrives.

    SEQUENCE = re.compile(r"\x1b(?:\[([?>]?)([0-9;]*)([@-~])|([()])(.)|([=>78M]))", re.S)

    def feed(self, data):
        text = self.rest + self.decoder.decode(data)
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._character(text[at])
                at += 1
                continue
            match = self.SEQUENCE.match(text, at)
            if not match:
                if len(text) - at > 40:
                    raise Unknown(repr(text[at:at + 40]))
                break
            self._sequence(match)
            at = match.end()
        self.rest = text[at:]

    def _character(self, c):
        if c == "\r":
            self.x = 0
        elif c == "\n":
            self._down()
        elif c == "\b":
            self.x = max(0, self.x - 1)
        elif c == "\t":
            self.x = min(self.width - 1, (self.x // 8 + 1) * 8)
        elif c >= " ":
            if self.x >= self.width:
                self.x = 0
                self._down()
            self.cells[self.y][self.x] = (c, self.style)
            self.x += 1
            self.last = c

    def _down(self):
        if self.y == self.region[1]:
            self._scroll(1)
        else:
            self.y = min(self.height - 1, self.y + 1)

    def _scroll(self, lines):
        top, bottom = self.region
        for _ in range(abs(lines)):
            if lines > 0:
                self.cells.pop(top)
                self.cells.insert(bottom, self._blank())
            else:
                self.cells.pop(bottom)
                self.cells.insert(top, self._blank())

    def _sequence(self, match):
        private, numbers, final, charset, _, simple = match.groups()
        if charset or (simple and simple in "=>"):
            return
        if simple == "M":
            if self.y == self.region[0]:
                self._scroll(-1)
            else:
                self.y = max(0, self.y - 1)
            return
        if simple:
            raise Unknown(match.group())
        values = [int(n) if n else 0 for n in numbers.split(";")] if numbers else []
        if private or final in "hlt":
            return  # modes: the other screen, the cursor, the keypad
        self._control(final, values, match.group())

    def _control(self, final, values, whole):
        first = values[0] if values else 0
        one = max(1, first)
        row = self.cells[self.y]
        blank = (" ", (None, False, False))
        if final in "Hf":
            self.y = max(1, first) - 1
            self.x = (max(1, values[1]) if len(values) > 1 else 1) - 1
        elif final == "A":
            self.y -= one
        elif final == "B":
            self.y += one
        elif final == "C":
            self.x += one
        elif final == "D":
            self.x -= one
        elif final == "G":
            self.x = one - 1
        elif final == "d":
            self.y = one - 1
        elif final == "K":
            begin, end = {0: (self.x, self.width), 1: (0, self.x + 1), 2: (0, self.width)}[first]
            row[begin:end] = [blank] * (end - begin)
        elif final == "J":
            self._erase(first, blank)
        elif final == "X":
            end = min(self.width, self.x + one)
            row[self.x:end] = [blank] * (end - self.x)
        elif final == "P":
            del row[self.x:self.x + one]
            row += [blank] * (self.width - len(row))
        elif final == "@":
            row[self.x:self.x] = [blank] * one
            del row[self.width:]
        elif final in "LM":
            region, self.region = self.region, (self.y, self.region[1])
            self._scroll(-one if final == "L" else one)
            self.region = region
        elif final in "ST":
            self._scroll(one if final == "S" else -one)
        elif final == "b":
            for _ in range(one):
                self._character(self.last)
        elif final == "r":
            self.region = (max(1, first) - 1, (values[1] if len(values) > 1 else self.height) - 1)
            self.x = self.y = 0
        elif final == "m":
            self._colour(values or [0])
        else:
            raise Unknown(repr(whole))
        self.x = max(0, min(self.width, self.x))
        self.y = max(0, min(self.height - 1, self.y))

    def _erase(self, how, blank):
        rows = {0: range(self.y + 1, self.height), 1: range(self.y), 2: range(self.height),
                3: range(0)}[how]
        for y in rows:
            self.cells[y] = self._blank()
        if how == 0:
            self.cells[self.y][self.x:] = [blank] * (self.width - self.x)
        elif how == 1:
            self.cells[self.y][:self.x + 1] = [blank] * (self.x + 1)

    def _colour(self, values):
        colour, bold, dim = self.style
        for value in values:
            if value == 0:
                colour, bold, dim = None, False, False
            elif value == 1:
                bold = True
            elif value == 2:
                dim = True
            elif value == 22:
                bold = dim = False
            elif 30 <= value <= 37:
                colour = value - 30
            elif value == 39:
                colour = None
            elif value not in (7, 10, 11, 24, 27, 49):
                raise Unknown(f"colour {value}")
        self.style = (colour, bold, dim)

    # What it looks like.

    def svg(self, title=""):
        rows = [list(row) for row in self.cells]
        while rows and all(c == " " for c, _ in rows[-1]):
            rows.pop()
        width = self.width * CELL_WIDTH + 24
        height = len(rows) * CELL_HEIGHT + 48
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
            f'viewBox="0 0 {width:.0f} {height}" font-size="{FONT}" '
            'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">',
            f'<desc>{escape(self.text().rstrip())}</desc>',
            f'<rect width="{width:.0f}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
            *(f'<circle cx="{18 + 18 * i}" cy="16" r="5" fill="{colour}"/>'
              for i, colour in enumerate(("#e5534b", "#c69026", "#57ab5a"))),
            f'<text x="{width / 2:.0f}" y="20" font-size="12" text-anchor="middle" fill="{DIM}">'
            f'{escape(title)}</text>',
        ]
        for y, row in enumerate(rows):
            parts += _runs(row, 32 + (y + 0.75) * CELL_HEIGHT)
        return "\n".join(parts + ["</svg>"]) + "\n"


def _runs(row, y):
    """Characters of one look, drawn together and held to the grid by their length."""
    x = 0
    while x < len(row):
        end = x + 1
        while end < len(row) and row[end][1] == row[x][1]:
            end += 1
        text = "".join(c for c, _ in row[x:end])
        colour, bold, dim = row[x][1]
        if text.strip():
            lead = len(text) - len(text.lstrip())
            text = text.strip()
            fill = COLOURS.get(colour, DIM if dim else PLAIN)
            weight = ' font-weight="bold"' if bold else ""
            yield (f'<text x="{12 + (x + lead) * CELL_WIDTH:.1f}" y="{y:.1f}" fill="{fill}"{weight} '
                   f'textLength="{len(text) * CELL_WIDTH:.1f}" xml:space="preserve">'
                   f'{escape(text)}</text>')
        x = end


class Session:
    """A program at a terminal of its own."""

    def __init__(self, command, width, height, environment=None):
        self.screen = Screen(width, height)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", **(environment or {})})
        self.resize(width, height)

    def resize(self, width, height):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        if (width, height) != (self.screen.width, self.screen.height):
            self.screen.resize(width, height)

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def watch(self, seconds, until=None):
        """Draws what comes for so long, or until the text of the screen matches. False: it ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if until is not None and re.search(until, self.screen.text()):
                return True
            if not select.select([self.fd], [], [], min(left, 0.2))[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.screen.feed(data)
        return True

    def status(self, seconds=10):
        """Waits for the end of the program; its exit status, or None if it does not end."""
        self.watch(seconds, until=None) if self._running() else None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == self.pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None

    def _running(self):
        return bool(select.select([self.fd], [], [], 0)[0])

    def close(self):
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
