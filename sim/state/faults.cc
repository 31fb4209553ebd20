#include "state/faults.h"

#include <sys/stat.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

namespace softmig::sim {
namespace {

struct Rule {
  std::string function;
  std::string action;  // fail, slow, absent, missing
  uint64_t value = 0;  // result, or nanoseconds
  uint64_t first = 1;
  bool onwards = true;
  uint64_t calls = 0;
};

struct Rules {
  std::mutex mutex;
  std::vector<Rule> list;
  std::string path;  // of the file to read again
  timespec changed{};
};

std::string_view cut(std::string_view* text, char separator) {
  const size_t at = text->find(separator);
  const std::string_view part = text->substr(0, at);
  *text = at == text->npos ? std::string_view() : text->substr(at + 1);
  return part;
}

uint64_t number(std::string_view* text) {
  uint64_t value = 0;
  const auto result = std::from_chars(text->data(), text->data() + text->size(), value);
  text->remove_prefix(static_cast<size_t>(result.ptr - text->data()));
  return value;
}

bool parse_action(std::string_view text, Rule* rule) {
  std::string_view what = cut(&text, '@');
  rule->action = cut(&what, '=');
  rule->value = number(&what);
  if (rule->action == "slow") {
    rule->value *= what == "us" ? 1000 : what == "ms" ? 1'000'000 : what == "s" ? 1'000'000'000 : 0;
    if (rule->value == 0) return false;
  } else if (!what.empty() || (rule->action != "fail" && rule->action != "absent")) {
    return false;
  }
  if (text.empty()) return true;
  rule->first = number(&text);
  rule->onwards = text == "+";
  return rule->first != 0 && (text.empty() || rule->onwards);
}

bool parse_rule(std::string_view text, Rule* rule) {
  if (text.substr(0, 8) == "missing=") {
    rule->action = "missing";
    rule->function = text.substr(8);
    return !rule->function.empty();
  }
  rule->function = cut(&text, ':');
  return !rule->function.empty() && parse_action(text, rule);
}

std::vector<Rule> parse_rules(std::string text) {
  for (char& c : text) c = c == '\n' || c == ' ' ? ',' : c;
  std::vector<Rule> rules;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view part = cut(&rest, ',');
    Rule rule;
    if (part.empty()) continue;
    if (parse_rule(part, &rule))
      rules.push_back(std::move(rule));
    else
      std::fprintf(stderr, "simulated GPU: not a fault: %.*s\n", static_cast<int>(part.size()),
                   part.data());
  }
  return rules;
}

void read_file(Rules* rules) {
  struct stat info {};
  if (stat(rules->path.c_str(), &info) != 0) {
    rules->list.clear();
    rules->changed = {};
    return;
  }
  const bool same = info.st_mtim.tv_sec == rules->changed.tv_sec &&
                    info.st_mtim.tv_nsec == rules->changed.tv_nsec;
  if (same) return;
  rules->changed = info.st_mtim;
  std::ifstream in(rules->path);
  rules->list = parse_rules({std::istreambuf_iterator<char>(in), {}});
}

Rules* make_rules() {
  const char* text = getenv("SOFTMIG_SIM_FAULT");
  if (text == nullptr || *text == '\0') return nullptr;
  auto* rules = new Rules();
  if (*text == '@')
    rules->path = text + 1;
  else
    rules->list = parse_rules(text);
  return rules;
}

Rules* all_rules() {
  static Rules* const rules = make_rules();
  return rules;
}

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty() || pattern.back() != '*') return pattern == name;
  pattern.remove_suffix(1);
  return name.substr(0, pattern.size()) == pattern;
}

bool has_rule(std::string_view action, std::string_view function) {
  Rules* rules = all_rules();
  if (rules == nullptr) return false;
  const std::lock_guard lock(rules->mutex);
  if (!rules->path.empty()) read_file(rules);
  for (const Rule& rule : rules->list) {
    if (rule.action == action && matches(rule.function, function)) return true;
  }
  return false;
}

void sleep_ns(uint64_t ns) {
  timespec time{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  while (nanosleep(&time, &time) != 0) {
  }
}

}  // namespace

bool has_faults() { return all_rules() != nullptr; }

std::optional<unsigned int> injected_fault(std::string_view function) {
  Rules* rules = all_rules();
  std::optional<unsigned int> result;
  uint64_t sleep = 0;
  {
    const std::lock_guard lock(rules->mutex);
    if (!rules->path.empty()) read_file(rules);
    for (Rule& rule : rules->list) {
      if ((rule.action != "fail" && rule.action != "slow") || !matches(rule.function, function))
        continue;
      ++rule.calls;
      if (rule.calls < rule.first || (rule.calls > rule.first && !rule.onwards)) continue;
      if (rule.action == "slow")
        sleep += rule.value;
      else
        result = static_cast<unsigned int>(rule.value);
    }
  }
  if (sleep != 0) sleep_ns(sleep);
  return result;
}

bool is_missing(std::string_view function) { return has_rule("missing", function); }

bool is_absent(std::string_view library) { return has_rule("absent", library); }

}  // namespace softmig::sim
