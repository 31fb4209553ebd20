"""The formulas of the report. Pure: lists of numbers in, numbers out."""

import math
import statistics

EXACT = 1e-9  # what rounding may do to a figure that is at its bound


def jain(values):
    """(sum x)^2 / (n sum x^2): 1 if all have the same, 1/n if one has everything; 0 of nothing."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def variation(values):
    """Standard deviation of all values over their mean; 0 where the mean is 0."""
    middle = statistics.fmean(values)
    return statistics.pstdev(values) / middle if middle else 0.0


def accuracy(got, wanted):
    """How near `got` is to `wanted`, in percent: 100 is exact, too much counts as too little does."""
    return 100 * (1 - abs(got - wanted) / wanted)


def loss(before, after):
    """What is lost of `before`, in percent; negative if there is more."""
    return 100 * (before - after) / before


def percentile(values, part):
    """The value at rank `part` (0 to 1), the nearest that was measured."""
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * part)]


def median_interval(values, confidence=0.95):
    """(low, median, high): an interval for the median that supposes nothing of the distribution.

    Between the k-th smallest and the k-th largest, k the largest for which binomial(n, 1/2) leaves
    out at most 1 - confidence; all values where there are too few for that.
    """
    ordered = sorted(values)
    count = len(ordered)
    left_out, below = 0, 0.0
    while left_out < count // 2:
        below += math.comb(count, left_out) / 2**count
        if 2 * below > 1 - confidence:
            break
        left_out += 1
    edge = max(left_out - 1, 0)
    return ordered[edge], statistics.median(ordered), ordered[count - 1 - edge]


def paired_difference(before, changed, after):
    """Per triple, what `changed` is above the mean of its two native neighbours."""
    return [c - (b + a) / 2 for b, c, a in zip(before, changed, after)]


def response(series, bucket, change, wanted, window=5, tolerance=0.1):
    """Seconds from `change` until the share is the new one; None if that does not come.

    series     share in each bucket of `bucket` seconds, from 0 on
    change     when the limit was changed, in seconds
    wanted     the new share

    It is there at the end of the first bucket after the change from which on `window` buckets have
    a mean within `tolerance` of `wanted`, and that bucket itself is nearer to the new share than to
    the one before.
    """
    first = math.ceil(change / bucket)
    before = statistics.fmean(series[max(0, first - window) : first] or [0.0])
    for at in range(first, len(series) - window + 1):
        mean = statistics.fmean(series[at : at + window])
        nearer = abs(series[at] - wanted) < abs(series[at] - before)
        if nearer and abs(mean - wanted) <= tolerance * wanted:
            return (at + 1) * bucket - change
    return None


def verdict(low, high, bound):
    """Whether a figure between `low` and `high` keeps `bound` ("<=" or ">=", number).

    "holds" or "missed" where all of the interval says so, else "undecided".
    """
    kind, limit = bound
    slack = EXACT * max(1.0, abs(limit))
    good = [v <= limit + slack if kind == "<=" else v >= limit - slack for v in (low, high)]
    return "holds" if all(good) else "undecided" if any(good) else "missed"


def worst(verdicts):
    """One verdict for several figures of a metric; None for none."""
    for one in ("missed", "undecided", "holds"):
        if one in verdicts:
            return one
    return None
