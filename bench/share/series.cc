#include "share/series.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace softmig::bench {

Series::Series(int64_t begin_ns, int skip, int count)
    : begin_ns_(begin_ns), skip_(skip), buckets_(static_cast<size_t>(skip + count)) {}

void Series::add(Interval interval, double gpu_ns) {
  const double length =
      static_cast<double>(std::max<int64_t>(1, interval.end_ns - interval.begin_ns));
  for (int64_t at = interval.begin_ns; at < interval.end_ns;) {
    const int64_t offset = at - begin_ns_;
    const int64_t bucket = offset >= 0 ? offset / kBucketNs : -1;
    const int64_t edge = begin_ns_ + (bucket + 1) * kBucketNs;
    const int64_t until = std::min(interval.end_ns, edge);
    if (bucket >= static_cast<int64_t>(buckets_.size())) return;
    if (bucket >= 0)
      buckets_[static_cast<size_t>(bucket)] += gpu_ns * static_cast<double>(until - at) / length;
    at = until;
  }
}

double Series::sum(size_t from, size_t to) const {
  double total = 0;
  for (size_t i = from; i < to; ++i) total += buckets_[i];
  return to > from ? 100 * total / static_cast<double>(static_cast<int64_t>(to - from) * kBucketNs)
                   : 0;
}

double Series::percent() const { return sum(static_cast<size_t>(skip_), buckets_.size()); }

std::vector<double> Series::windows() const {
  constexpr size_t kPerSecond = 1'000'000'000 / kBucketNs;
  std::vector<double> windows;
  for (size_t i = static_cast<size_t>(skip_); i + kPerSecond <= buckets_.size(); i += kPerSecond)
    windows.push_back(sum(i, i + kPerSecond));
  return windows;
}

std::string Series::text() const {
  std::string text;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%s%.1f", i == 0 ? "" : " ", sum(i, i + 1));
    text += digits;
  }
  return text;
}

std::vector<Interval> merged(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.begin_ns < b.begin_ns; });
  std::vector<Interval> result;
  for (const Interval& one : intervals) {
    if (result.empty() || one.begin_ns > result.back().end_ns)
      result.push_back(one);
    else
      result.back().end_ns = std::max(result.back().end_ns, one.end_ns);
  }
  return result;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& values) {
  const double middle = mean(values);
  double sum = 0;
  for (double value : values) sum += (value - middle) * (value - middle);
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

double percentile(std::vector<double>* values, double part) {
  if (values->empty()) return 0;
  const auto last = static_cast<double>(values->size() - 1);
  const auto at = values->begin() + std::lround(last * part);
  std::nth_element(values->begin(), at, values->end());
  return *at;
}

}  // namespace softmig::bench
