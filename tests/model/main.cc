// Every interleaving of the steps of two or three processes, with a death possible after every
// step.
//
//   protocol_model            what ctest runs: seconds
//   protocol_model --large    larger bounds: minutes, up to 2 GiB of memory
//   protocol_model NAME...    these scenarios, also after --large
//
// For every state: the total never passes the limit, is never below what the living hold, and no
// living process loses its slot. For every end: a newcomer is granted at once all that nobody
// living holds, not a unit more or less; no slot and no object stays behind. No operation takes
// more than a bounded number of steps, so that nothing hangs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "world.h"

namespace softmig::model {
namespace {

// Holds, gives back, holds again.
void work(int p) {
  reserve(p, 2);
  release(p, 1);
  reserve(p, 2);
}

std::vector<Scenario> scenarios() {
  std::vector<Scenario> list;
  list.push_back({"two that join",
                  3,
                  1,
                  true,
                  nullptr,
                  {[](int p) { reserve(p, 2); }, [](int p) { reserve(p, 2); }}});
  list.push_back(
      {"two that work",
       3,
       1,
       true,
       [] {
         reserve(0, 1);
         reserve(1, 1);
       },
       {[](int p) { release(p, 1), reserve(p, 2); }, [](int p) { release(p, 1), reserve(p, 2); }}});
  list.push_back({"one that works, two that look",
                  4,
                  2,
                  true,
                  [] {
                    reserve(0, 2);
                    reserve(1, 1);
                  },
                  {[](int p) { reserve(p, 1), release(p, 3); }, look_for_dead, look_for_dead},
                  2});
  list.push_back({"a dead one, two that take his",
                  3,
                  1,
                  true,
                  [] {
                    reserve(0, 3);
                    die(0);
                  },
                  {[](int) {}, [](int p) { reserve(p, 2); }, [](int p) { reserve(p, 2); }},
                  2,
                  4});
  list.push_back({"an export", 4, 1, false, [] { reserve(0, 2); }, {export_all, [](int p) {
                                                                      import(p), drop(p);
                                                                    }}});
  list.push_back({"the last one goes, one comes",
                  8,
                  1,
                  false,
                  [] {
                    reserve(0, 2);
                    export_all(0);
                    reserve(1, 1);
                  },
                  {drop, [](int p) { import(p), drop(p), export_all(p); }},
                  3});
  list.push_back({"two go, one comes",
                  8,
                  1,
                  false,
                  [] {
                    reserve(0, 2);
                    export_all(0);
                    import(1);
                    reserve(2, 1);
                  },
                  {drop, drop, [](int p) { import(p); }},
                  2,
                  4});
  list.push_back({"an exec",
                  3,
                  1,
                  true,
                  [] { reserve(0, 2); },
                  {[](int p) { exec(p), reserve(p, 1); }, [](int p) { reserve(p, 2); }},
                  3,
                  6});
  list.push_back({"an exec before two",
                  3,
                  2,
                  true,
                  [] { reserve(0, 2); },
                  {[](int p) { exec(p), reserve(p, 1); }, look_for_dead, look_for_dead},
                  1,
                  3});
  list.push_back({"three that join and work", 4, 2, true, nullptr, {work, work, work}, 1, 2});
  return list;
}

bool check(const Scenario& scenario, bool large) {
  const auto start = std::chrono::steady_clock::now();
  const Result result = search(scenario, large, large ? 30'000'000 : 2'000'000);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%-34s %9lu states %8lu ends %7.1f s  %s\n", scenario.name,
              static_cast<unsigned long>(result.states), static_cast<unsigned long>(result.ends),
              seconds, result.fault.empty() ? "holds" : "BROKEN");
  if (!result.fault.empty()) std::printf("%s\n%s", result.fault.c_str(), result.trace.c_str());
  std::fflush(stdout);
  return result.fault.empty();
}

int run(int argc, char** argv) {
  const bool large = argc > 1 && std::strcmp(argv[1], "--large") == 0;
  const std::vector<std::string> names(argv + (large ? 2 : 1), argv + argc);
  const std::vector<Scenario> all = scenarios();
  for (const std::string& name : names) {
    const auto is_it = [&name](const Scenario& scenario) { return name == scenario.name; };
    if (std::any_of(all.begin(), all.end(), is_it)) continue;
    std::fprintf(stderr, "no such scenario: %s; there are:\n", name.c_str());
    for (const Scenario& scenario : all) std::fprintf(stderr, "  %s\n", scenario.name);
    return 2;
  }
  int broken = 0, checked = 0;
  for (const Scenario& scenario : all) {
    if (!names.empty() && std::count(names.begin(), names.end(), scenario.name) == 0) continue;
    checked++;
    broken += !check(scenario, large);
  }
  std::printf("%d scenarios, %d broken\n", checked, broken);
  return broken == 0 ? 0 : 1;
}

}  // namespace
}  // namespace softmig::model

int main(int argc, char** argv) { return softmig::model::run(argc, argv); }
