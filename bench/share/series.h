// GPU time over wall time: what was got in each bucket of 100 ms, and figures of it. Pure
// arithmetic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace softmig::bench {

struct Interval {
  int64_t begin_ns, end_ns;
};

class Series {
 public:
  static constexpr int64_t kBucketNs = 100'000'000;

  // Buckets from `begin_ns` on; `skip` of them count for no figure, the `count` after them do.
  Series(int64_t begin_ns, int skip, int count);

  // `gpu_ns` of work, spread evenly over the interval; what lies outside the buckets is left out.
  void add(Interval interval, double gpu_ns);

  double percent() const;               // over all buckets that count
  std::vector<double> windows() const;  // percent of each full second that counts
  std::string text() const;             // percent of every bucket, skipped ones too
  int skipped() const { return skip_; }

 private:
  double sum(size_t from, size_t to) const;  // percent over these buckets

  int64_t begin_ns_;
  int skip_;
  std::vector<double> buckets_;
};

// Disjoint intervals that cover the same time.
std::vector<Interval> merged(std::vector<Interval> intervals);

double mean(const std::vector<double>& values);
double deviation(const std::vector<double>& values);
// `part` from 0 to 1. Sorts in part; 0 if there are no values.
double percentile(std::vector<double>* values, double part);

}  // namespace softmig::bench
