#include "host/site_config.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <set>

#include "base/bytes.h"
#include "host/text.h"
#include "policy/settings.h"

namespace softmig::host {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char byte) { return std::tolower(byte); });
  return result;
}

bool is_type(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char byte) {
    return std::isalnum(byte) != 0 || byte == '_' || byte == '.' || byte == '-';
  });
}

std::optional<uint64_t> parse_number(std::string_view text, uint64_t least, uint64_t most) {
  uint64_t value = 0;
  if (text.empty() || text.size() > std::to_string(most).size()) return std::nullopt;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    value = value * 10 + static_cast<uint64_t>(digit - '0');
  }
  if (value < least || value > most) return std::nullopt;
  return value;
}

bool set_shards(std::string_view type, std::string_view value, SiteConfig* config) {
  const auto shards = parse_number(value, 1, kMaxShards);
  if (!shards) return false;
  if (!type.empty()) {
    config->shards.set(type, *shards);
  } else {
    config->shards.set_general(*shards);
    config->shards_set = true;
  }
  return true;
}

bool set_reserve(std::string_view type, std::string_view value, SiteConfig* config) {
  uint64_t bytes = 0;
  if (!base::parse_size(value, &bytes)) return false;
  if (type.empty()) {
    config->reserve.set_general(bytes);
  } else {
    config->reserve.set(type, bytes);
  }
  return true;
}

bool set_compute(std::string_view, std::string_view value, SiteConfig* config) {
  config->limit_compute = value == "1";
  return value == "0" || value == "1";
}

bool set_on_failure(std::string_view, std::string_view value, SiteConfig* config) {
  config->on_failure = value == "drain" ? OnFailure::kDrain : OnFailure::kCancel;
  return value == "drain" || value == "cancel";
}

std::optional<Answer> parse_answer(std::string_view value) {
  if (value == "report") return Answer::kReport;
  if (value == "kill") return Answer::kKill;
  if (value == "cancel") return Answer::kCancel;
  return std::nullopt;
}

// The general line does not undo a line for one kind that stands above it.
bool set_answer(std::string_view kind, std::string_view value, SiteConfig* config) {
  const auto answer = parse_answer(value);
  bool found = false;
  for (int i = 0; answer && i < policy::kVerdictKinds; i++) {
    const bool named = kind == policy::verdict_name(static_cast<policy::VerdictKind>(i));
    if (!named && (!kind.empty() || config->answer_set[i])) continue;
    config->answer[i] = *answer;
    config->answer_set[i] = named;
    found = true;
  }
  return found || (answer && kind.empty());
}

bool set_memory_tolerance(std::string_view, std::string_view value, SiteConfig* config) {
  return base::parse_size(value, &config->tolerance.memory);
}

bool set_compute_tolerance(std::string_view, std::string_view value, SiteConfig* config) {
  const auto points = parse_number(value, 0, 100);
  if (points) config->tolerance.compute = *points;
  return points.has_value();
}

bool set_metrics(std::string_view, std::string_view value, SiteConfig* config) {
  const size_t colon = value.rfind(':');
  const bool off = value == "off";
  if (!off && (colon == std::string_view::npos || colon == 0 ||
               !parse_number(value.substr(colon + 1), 1, 65535))) {
    return false;
  }
  config->metrics_address = off ? "" : std::string(value);
  return true;
}

struct Row {
  SiteKey key;
  bool (*set)(std::string_view type, std::string_view value, SiteConfig* config);
};

const Row kRows[] = {
    {{"NUM_SHARDS_PER_GPU", true, "4", "a whole number from 1 to 32",
      "shards of each GPU, as in gres.conf; 1: GPUs of this type are not sliced"},
     set_shards},
    {{"MEMORY_RESERVE", true, "0", "a size such as 512M",
      "memory of each GPU that is divided among no slices"},
     set_reserve},
    {{"LIMIT_COMPUTE", false, "1", "0 or 1", "1: slices limit GPU time as well, 0: memory only"},
     set_compute},
    {{"ON_FAILURE", false, "cancel", "cancel or drain",
      "what follows when a slice cannot be set up: the job is cancelled, or the node is drained"},
     set_on_failure},
    {{"ON_VERDICT", true, "report",
      "report, kill or cancel, for over_memory, no_library, stranger, ledger, over_compute or "
      "orphan",
      "what the agent does about a breach; in brackets: for this verdict"},
     set_answer},
    {{"MEMORY_TOLERANCE", false, "512M", "a size such as 512M",
      "GPU memory beyond its limit that the agent lets a job have, for each process up to the "
      "fourth"},
     set_memory_tolerance},
    {{"COMPUTE_TOLERANCE", false, "10", "a whole number from 0 to 100",
      "percentage points of GPU time beyond its limit that the agent lets a job have over 30 s"},
     set_compute_tolerance},
    {{"METRICS_ADDRESS", false, "127.0.0.1:9799", "an address with a port, or off",
      "where the agent answers Prometheus"},
     set_metrics},
};

// Keys of a job's config that a site may set for all jobs; the others are the job's own.
bool is_job_key(std::string_view key) {
  return key == "ACTIVE_OOM_KILLER" || key == "SOFTMIG_LOG_LEVEL" || key == "SOFTMIG_CONTEXT_COST";
}

class Parser {
 public:
  Parser(std::string path, std::vector<SiteProblem>* problems)
      : path_(std::move(path)), problems_(problems) {}

  void line(std::string_view text) {
    number_++;
    text = base::trim_blanks(text);
    if (text.empty() || text.front() == '#') return;
    const size_t sign = text.find('=');
    const std::string_view key = base::trim_blanks(text.substr(0, sign));
    if (sign == std::string_view::npos || key.empty()) {
      return problem("", fmt::format("\"{}\" is not KEY=VALUE", printable(text)));
    }
    if (!seen_.insert(lower(key)).second) {
      problem(key, "is there twice: the last one counts", true);
    }
    assign(key, base::trim_blanks(text.substr(sign + 1)));
  }

  SiteConfig config;

 private:
  void assign(std::string_view key, std::string_view value) {
    if (is_job_key(key)) return job_key(key, value);
    const std::string_view name = key.substr(0, key.find('['));
    for (const Row& row : kRows) {
      if (name == row.key.name) return row_key(row, key, key.substr(name.size()), value);
    }
    problem(key, "no such key, it is ignored", true);
  }

  // `where` is empty or "[type]".
  void row_key(const Row& row, std::string_view key, std::string_view where,
               std::string_view value) {
    std::string_view type;
    if (!where.empty()) {
      type = where.substr(1, where.ends_with(']') ? where.size() - 2 : std::string_view::npos);
      if (!row.key.by_type) return problem(key, "does not differ by type of GPU");
      if (!where.ends_with(']') || !is_type(type)) {
        return problem(key, fmt::format("\"{}\" is not a type of GPU", printable(type)));
      }
    }
    if (!row.set(type, value, &config)) {
      problem(key, fmt::format("\"{}\" is not {}", printable(value), row.key.format));
    }
  }

  void job_key(std::string_view key, std::string_view value) {
    policy::Settings settings;
    if (policy::parse_value(key, value, &settings) != policy::ParseStatus::kOk) {
      return problem(
          key, fmt::format("\"{}\" is not {}", printable(value), policy::find_key(key)->format));
    }
    config.job_lines.push_back(fmt::format("{}={}", key, value));
  }

  void problem(std::string_view key, const std::string& what, bool warning = false) {
    problems_->push_back(
        {warning, fmt::format("{}:{}: {}{}{}{}", path_, number_, warning ? "warning: " : "",
                              printable(key), key.empty() ? "" : ": ", what)});
  }

  std::string path_;
  std::vector<SiteProblem>* problems_;
  std::set<std::string> seen_;
  int number_ = 0;
};

}  // namespace

void ByType::set(std::string_view type, uint64_t value) { types_[lower(type)] = value; }

uint64_t ByType::get(std::string_view type) const {
  const auto found = types_.find(lower(type));
  return found == types_.end() ? general_ : found->second;
}

const std::vector<SiteKey>& site_keys() {
  static const std::vector<SiteKey> keys = [] {
    std::vector<SiteKey> all;
    for (const Row& row : kRows) all.push_back(row.key);
    return all;
  }();
  return keys;
}

SiteConfig parse_site_config(std::string_view text, const std::string& path,
                             std::vector<SiteProblem>* problems) {
  Parser parser(path, problems);
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    parser.line(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parser.config;
}

SiteConfig read_site_config(const std::string& path, std::vector<SiteProblem>* problems) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"),
                                                             std::fclose);
  if (file == nullptr) {
    if (errno != ENOENT) problems->push_back({false, with_errno(path, errno)});
    return {};
  }
  std::string text(65536, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) problems->push_back({false, with_errno(path, errno)});
  return parse_site_config(text, path, problems);
}

}  // namespace softmig::host
