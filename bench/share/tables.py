"""Results as compact lines and as markdown."""

import os

import plot
import suites


def judge(result, native):
    """Adds to every job of a limited result what it should have got and whether it did.

    A job must get its limit, or what it gets natively if that is less, within 1 point or one
    kernel; a job that is not hungry is judged only where it is alone. `native` is the result of the
    same round without the library, or None. Jobs that share a GPU are judged by their sum as well.
    """
    if result["mode"] == "native":
        return
    shares = [job["share"] for job in result["jobs"]]
    alone = len(result["jobs"]) == 1
    for number, job in enumerate(result["jobs"]):
        wanted = job["limit"]
        if alone and native:
            # More than everything: several streams at once do more work per second than one.
            most = native["jobs"][number]["share"]
            wanted = min(wanted, most) if most <= 100 else wanted * most / 100
        elif job["load"].startswith(suites.NOT_HUNGRY):
            continue  # what is left for it depends on its neighbours
        job["wanted"] = wanted
        job["allowed"] = max(1.0, 100 * job["longest_us"] / 1e6 / job["seconds"])
        job["good"] = abs(job["share"] - wanted) <= job["allowed"]
    if native and not alone:
        possible = min(
            sum(job["limit"] for job in result["jobs"]),
            sum(job["share"] for job in native["jobs"]),
        )
        result["of_possible"] = 100 * sum(shares) / possible if possible else 0


def compact(result):
    """One line on the terminal."""
    jobs = result["jobs"]
    shares = " ".join(f"{job['share']:5.1f}" for job in jobs)
    text = f"{result['mix']:<10} {result['round']:<14} {result['mode']:<8} {shares}"
    if len(jobs) > 1:
        text += f"  sum {sum(job['share'] for job in jobs):5.1f}"
    if "of_possible" in result:
        text += f" = {result['of_possible']:.1f} % of what is possible"
    text += f"  sd {max(job['deviation'] for job in jobs):.2f}"
    waits = [job["wait_p99_us"] for job in jobs if "wait_p99_us" in job]
    if waits:
        text += f"  wait p99 {max(waits):.0f} us"
    if "meter" in result:
        text += f"  NVML {result['meter']['device']:.1f}"
    bad = [job for job in jobs if job["result"] != "right"]
    if bad:
        text += f"  result {bad[0]['result']}"
    if any(not job.get("good", True) for job in jobs):
        text += "  OFF"
    return text


def _cell(result):
    if result is None:
        return "-"
    if "error" in result:
        return "failed"
    jobs = result["jobs"]
    shares = [job["share"] for job in jobs]
    deviation = max(job["deviation"] for job in jobs)
    if len(shares) == 1:
        return f"{shares[0]:.1f} +-{deviation:.1f}"
    limits = [job["limit"] for job in jobs]
    if len(set(limits)) == 1 and len(shares) > 4:
        each = f"{min(shares):.1f} to {max(shares):.1f}"
    else:
        each = " / ".join(f"{share:.1f}" for share in shares)
    of_possible = f" ({result['of_possible']:.1f} %)" if "of_possible" in result else ""
    return f"{each}, sum {sum(shares):.1f}{of_possible}, +-{deviation:.1f}"


def markdown(results, modes):
    """A row per mix and round, a column per mode."""
    rows = {}
    for result in results:
        rows.setdefault((result["mix"], result["round"]), {})[result["mode"]] = result
    lines = [
        "| jobs | load | " + " | ".join(modes) + " |",
        "|---|---|" + "---|" * len(modes),
    ]
    for (mix, label), cells in rows.items():
        texts = [_cell(cells.get(mode)) for mode in modes]
        lines.append(f"| {mix} | {label} | " + " | ".join(texts) + " |")
    lines += [
        "",
        "Share of the GPU in percent of what the same work takes alone and native; +-: largest "
        "standard deviation of a job's one-second windows; in brackets: part of what is possible, the "
        "smaller of the sum of limits and the native sum.",
    ]
    return "\n".join(lines) + "\n"


def plots(results, folder):
    """One SVG per mix and round, modes below each other."""
    rounds = {}
    for result in results:
        if "error" not in result:
            rounds.setdefault((result["mix"], result["round"]), []).append(result)
    for (mix, label), modes in rounds.items():
        panels = [
            {
                "title": result["mode"],
                "rows": [
                    {
                        "label": f"job {number} ({job['limit']} %)",
                        "series": series,
                        "limit": None if result["mode"] == "native" else job["limit"],
                        "offset": job["offset"],
                    }
                    for number, job in enumerate(result["jobs"], 1)
                    for series in job["series"]
                ],
            }
            for result in modes
        ]
        name = f"{mix}-{label}".replace("/", "-").replace(" ", "-").replace(":", "-").replace(",", "")
        with open(os.path.join(folder, f"{name}.svg"), "w", encoding="utf-8") as file:
            file.write(plot.share_over_time(f"{mix}, {label}", panels))
