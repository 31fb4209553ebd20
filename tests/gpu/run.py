#!/usr/bin/env python3
"""Runs every test of tests/gpu on the card or on the simulated GPU, each in a fresh slice.

  tests/gpu/run.py --build build --sim 1x80G --quick      what `make test` runs, no GPU needed
  tests/gpu/run.py --build build --real --out results     everything on the card
  tests/gpu/run.py --build build --real --user nobody     the same as an ordinary user
  tests/gpu/run.py --build build --sim 1x80G --no-preload  what the tests say without SoftMig

One line per case, results.jsonl in --out, and at the end "N passed, N failed, N skipped".
"""

import json
import os
import queue
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from harness import arguments as options_of  # noqa: E402
from harness import cases as all_cases  # noqa: E402
from harness import chaos  # noqa: E402
from harness import frameworks  # noqa: E402
from harness import never_stuck  # noqa: E402
from harness.case import kill_session, run_case  # noqa: E402
from harness.place import MIB, Place  # noqa: E402
from harness.witness import Witness  # noqa: E402


GROUPS = {**all_cases.GROUPS, **frameworks.GROUPS, **never_stuck.GROUPS, **chaos.GROUPS}


def arguments():
    """The options, and the cases that they choose."""
    parser = options_of.parser_of(__doc__)
    options_of.add_place(parser)
    parser.add_argument("--user", help="run the programs as this user (needs root)")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    parser.add_argument(
        "--no-preload",
        action="store_true",
        help="without the library: shows that the tests can fail",
    )
    parser.add_argument(
        "--context-cost", type=int, metavar="BYTES", help="SOFTMIG_CONTEXT_COST of the slices"
    )
    parser.add_argument("--group", action="append", choices=GROUPS, help="only these groups")
    parser.add_argument("--only", metavar="REGEX", type=options_of.expression,
                        help="only cases whose name matches")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--jobs", type=options_of.above_zero, help="cases at a time (the card: 1)")
    parser.add_argument("--out", metavar="DIR", help="where results.jsonl goes")
    options = parser.parse_args()
    cases = [c for name in options.group or GROUPS for c in GROUPS[name](options.quick)]
    return options, options_of.matching(parser, options.only, cases, lambda case: (case.name,))


def summary(record):
    """The figures of a case in a few words."""
    words = [f"{record['seconds']:7.2f} s" if "seconds" in record else "         "]
    lines = record.get("lines", [])
    granted = [line["granted"] for line in lines if "granted" in line]
    if granted:
        words.append(
            f"granted {min(granted) / MIB:.0f}"
            + (f"-{max(granted) / MIB:.0f}" if min(granted) != max(granted) else "")
            + " MiB"
        )
    if record.get("seen", {}).get("samples"):
        words.append(
            f"seen {max(record['seen']['processes'], record['seen']['device']) / MIB:.0f} MiB"
        )
    slowest = [line["slowest_ms"] for line in lines if "slowest_ms" in line]
    if slowest:
        words.append(f"slowest {max(slowest):.2f} ms")
    if record.get("text"):
        words.append(record["text"])
    return "  ".join(words)


class Workers:
    """Runs the cases, each worker on a place of its own."""

    def __init__(self, options, cases):
        self.options = options
        self.queue = queue.Queue()
        for case in cases:
            self.queue.put(case)
        self.lock = threading.Lock()
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed = []
        self.out = None
        if options.out:
            os.makedirs(options.out, exist_ok=True)
            self.out = open(os.path.join(options.out, "results.jsonl"), "w", encoding="utf-8")

    def run(self):
        jobs = self.options.jobs or (1 if self.options.real else 2)
        threads = [threading.Thread(target=self.work, args=(i,)) for i in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def work(self, number):
        place = Place(self.options, number)
        witnesses = {}
        try:
            place.measure_context()
            while True:
                case = self.queue.get_nowait()
                if case.sim not in witnesses:
                    witnesses[case.sim] = Witness(place, sim=case.sim)
                self.report(run_case(case, place, witnesses[case.sim]))
        except queue.Empty:
            pass
        except Exception as error:  # a broken harness must not look like a pass
            self.report({"case": "harness", "outcome": "failed", "text": repr(error)})
        finally:
            for witness in witnesses.values():
                witness.close()
            place.close()

    def report(self, record):
        with self.lock:
            outcome = record["outcome"]
            self.counts[outcome] += 1
            if outcome == "failed":
                self.failed.append(record["case"])
            mark = {"passed": "PASS", "failed": "FAIL", "skipped": "skip"}[outcome]
            print(f"{mark} {record['case']:<44} {summary(record)}", flush=True)
            if self.out:
                self.out.write(json.dumps(record) + "\n")
                self.out.flush()


def end_all(*_):
    for session in Place.sessions:
        kill_session(session)
    os._exit(1)


def main():
    options, cases = arguments()
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    options_of.needs_gpu(options)
    signal.signal(signal.SIGTERM, end_all)
    start = time.monotonic()
    workers = Workers(options, cases)
    workers.run()
    for name in workers.failed:
        print(f"failed: {name}")
    counts = workers.counts
    print(f"took {time.monotonic() - start:.0f} s")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
