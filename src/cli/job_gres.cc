#include "cli/job_gres.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>

namespace softmig::cli {
namespace {

std::optional<uint64_t> number_in(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Pieces between separators; with `nested`, not those in brackets or parentheses.
std::vector<std::string_view> split(std::string_view text, char separator, bool nested = true) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  int depth = 0;
  for (size_t i = 0; i <= text.size(); i++) {
    if (i == text.size() || (text[i] == separator && depth == 0)) {
      if (i > begin) pieces.push_back(text.substr(begin, i - begin));
      begin = i + 1;
    } else if (nested && (text[i] == '[' || text[i] == '(')) {
      depth++;
    } else if (nested && (text[i] == ']' || text[i] == ')')) {
      depth--;
    }
  }
  return pieces;
}

// A name may have one bracket of a pair: these are words whatever they hold.
std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (const std::string_view line : split(text, '\n', false)) {
    for (const std::string_view word : split(line, ' ', false)) words.push_back(word);
  }
  return words;
}

struct Range {
  uint64_t first = 0, last = 0;
};

std::optional<Range> parse_range(std::string_view text) {
  const size_t dash = text.find('-');
  const auto first = number_in(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : number_in(text.substr(dash + 1));
  if (!first || !last || *last < *first) return std::nullopt;
  return Range{*first, *last};
}

// What stands before the first bracket, each number in it, and all that follows in turn.
bool expand_one(const std::string& head, std::string_view rest, size_t most,
                std::vector<std::string>* names) {
  const size_t open = rest.find('[');
  if (open == std::string_view::npos) {
    names->push_back(head + std::string(rest));
    return names->size() <= most;
  }
  const size_t close = rest.find(']', open);
  if (close == std::string_view::npos) return false;
  const std::string before = head + std::string(rest.substr(0, open));
  for (const std::string_view piece : split(rest.substr(open + 1, close - open - 1), ',')) {
    const auto range = parse_range(piece);
    if (!range || range->last - range->first >= most) return false;
    const size_t width = piece.substr(0, piece.find('-')).size();  // n[01-10] keeps its zeros
    for (uint64_t i = range->first; i <= range->last; i++) {
      const std::string number = fmt::format("{:0{}}", i, width);
      if (!expand_one(before + number, rest.substr(close + 1), most, names)) return false;
    }
  }
  return true;
}

// "IDX:0-1,3" after the colon.
bool parse_indices(std::string_view text, GresItem* item) {
  for (const std::string_view piece : split(text, ',')) {
    const auto range = parse_range(piece);
    if (!range || range->last >= 1024) return false;
    for (uint64_t i = range->first; i <= range->last; i++) {
      item->index.push_back(static_cast<int>(i));
    }
  }
  return true;
}

// "2/4,0/4": one entry for each GPU of the node.
bool parse_counts(std::string_view text, GresItem* item) {
  int place = 0;
  for (const std::string_view piece : split(text, ',')) {
    const size_t slash = piece.find('/');
    if (slash == std::string_view::npos) return false;
    const auto here = number_in(piece.substr(0, slash));
    const auto available = number_in(piece.substr(slash + 1));
    if (!here || !available) return false;
    if (*here > 0) {
      item->index.push_back(place);
      item->here.push_back(*here);
      item->available.push_back(*available);
    }
    place++;
  }
  return true;
}

// name:count or name:type:count, then perhaps (IDX:...), (S:...) or counts in parentheses.
bool parse_item(std::string_view text, GresItem* item) {
  const size_t open = text.find('(');
  std::string_view in;
  if (open != std::string_view::npos) {
    if (text.back() != ')') return false;
    in = text.substr(open + 1, text.size() - open - 2);
    text = text.substr(0, open);
  }
  const size_t first = text.find(':'), last = text.rfind(':');
  item->name = text.substr(0, first);
  if (first == std::string_view::npos) {
    item->count = 1;
  } else {
    const auto count = number_in(text.substr(last + 1));
    if (!count) return false;
    item->count = *count;
    if (last != first) item->type = text.substr(first + 1, last - first - 1);
  }
  if (in.starts_with("IDX:")) return parse_indices(in.substr(4), item);
  if (in.find('/') != std::string_view::npos) return parse_counts(in, item);
  return true;
}

// The value of KEY= at a word's beginning.
std::optional<std::string_view> value_of(std::string_view word, std::string_view key) {
  if (!word.starts_with(key) || word.size() <= key.size() || word[key.size()] != '=') {
    return std::nullopt;
  }
  return word.substr(key.size() + 1);
}

// Nothing of the user's stands before these words.
bool begins_with_job(const std::vector<std::string_view>& words, uint64_t job_id) {
  const std::string id = fmt::format("{}", job_id);
  if (words.size() < 2) return false;
  return value_of(words[0], "JobId") == id || value_of(words[1], "ArrayJobId") == id ||
         value_of(words[1], "HetJobId") == id;
}

std::string_view without_blanks(std::string_view text) {
  const size_t last = text.find_last_not_of(' ');
  return last == std::string_view::npos ? std::string_view() : text.substr(0, last + 1);
}

// Up to Slurm 23.02, then "gres/". From then on a job's record also tells how many shards its GPU
// has, which is worth asking for.
constexpr std::string_view kOldPrefix = "gres:";
constexpr size_t kIdWidth = 16, kTresWidth = 64, kTresColumns = 4;  // of kRequestFormat

std::optional<JobRequest> parse_request(std::string_view line) {
  if (line.size() != 4 * kIdWidth + kTresColumns * kTresWidth) return std::nullopt;
  std::optional<uint64_t> number[4];
  for (auto& one : number) {
    one = number_in(without_blanks(line.substr(0, kIdWidth)));
    if (!one) return std::nullopt;
    line.remove_prefix(kIdWidth);
  }
  JobRequest request;
  request.job_id = *number[0];
  request.array_id = *number[1];
  request.uid = static_cast<uint32_t>(*number[2]);
  request.restarts = *number[3];
  for (size_t i = 0; i < kTresColumns; i++) {
    const std::string_view text = without_blanks(line.substr(i * kTresWidth, kTresWidth));
    // One that fills its column may have been cut, one with a blank is no list of TRES.
    const bool whole = !text.empty() && text.size() < kTresWidth && text.find(' ') == text.npos;
    if (i > 0) request.tres += ' ';
    request.tres += whole ? text : "?";
  }
  return request;
}

bool holds(std::string_view hosts, std::string_view node) {
  for (const std::string_view part : split(hosts, ',')) {
    for (const std::string& name : expand_hosts(part)) {
      if (name == node) return true;
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> expand_hosts(std::string_view text, size_t most) {
  std::vector<std::string> names;
  for (const std::string_view part : split(text, ',')) {
    if (!expand_one("", part, most, &names)) return {};
  }
  return names;
}

std::optional<std::vector<GresItem>> parse_gres(std::string_view detail) {
  std::vector<GresItem> items;
  if (detail == "(null)") return items;
  for (const std::string_view text : split(detail, ',')) {
    GresItem item;
    if (!parse_item(text, &item)) return std::nullopt;
    if (item.count > 0) items.push_back(item);
  }
  return items;
}

RecordStatus find_gres(std::string_view records, uint64_t job_id, std::string_view node,
                       std::vector<GresItem>* items) {
  const std::vector<std::string_view> words = words_of(records);
  if (!begins_with_job(words, job_id)) return RecordStatus::kNoJob;
  // "Nodes=n[1-2] CPU_IDs=0 Mem=100 GRES=...", once for each group of equal nodes.
  std::optional<std::string_view> found;
  bool here = false;
  for (const std::string_view word : words) {
    if (const auto hosts = value_of(word, "Nodes")) here = holds(*hosts, node);
    const auto detail = value_of(word, "GRES");
    if (!detail || !here) continue;
    if (found && *found != *detail) return RecordStatus::kForged;
    found = detail;
  }
  if (!found) return RecordStatus::kNoNode;
  const auto parsed = parse_gres(*found);
  if (!parsed) return RecordStatus::kBadGres;
  *items = *parsed;
  return RecordStatus::kOk;
}

std::string single_name(std::string_view records, uint64_t job_id) {
  const std::vector<std::string_view> words = words_of(records);
  const std::string job = fmt::format("JobId={}", job_id);
  for (size_t i = 0; i + 2 < words.size(); i++) {
    if (words[i] != job) continue;
    for (const auto& [set, part, sign] : {std::tuple{"ArrayJobId", "ArrayTaskId", '_'},
                                          std::tuple{"HetJobId", "HetJobOffset", '+'}}) {
      const auto id = value_of(words[i + 1], set), place = value_of(words[i + 2], part);
      if (!id || !place || !number_in(*id) || !number_in(*place)) continue;
      return fmt::format("{}{}{}", *id, sign, *place);
    }
  }
  return {};
}

std::vector<JobRequest> parse_requests(std::string_view output) {
  std::vector<JobRequest> requests;
  std::set<uint64_t> seen;
  for (const std::string_view line : split(output, '\n', false)) {
    const auto request = parse_request(line);
    if (!request || !seen.insert(request->job_id).second) return {};
    requests.push_back(*request);
  }
  return requests;
}

std::optional<std::vector<GresItem>> items_of_request(const JobRequest& request,
                                                      std::string_view gpus) {
  const std::vector<std::string_view> tres = words_of(request.tres);
  if (tres.size() != kTresColumns || std::count(tres.begin(), tres.end(), "?") > 0) {
    return std::nullopt;
  }
  if (gpus.empty() && request.tres.find("shard") == std::string::npos) {
    return std::vector<GresItem>();
  }
  if (std::any_of(tres.begin() + 1, tres.end(), [](auto text) { return text != "N/A"; })) {
    return std::nullopt;
  }
  std::string_view text = tres.front();
  if (!text.starts_with(kOldPrefix)) return std::nullopt;
  text.remove_prefix(kOldPrefix.size());
  GresItem item;
  if (text.find_first_of(",(") != std::string_view::npos || !parse_item(text, &item)) {
    return std::nullopt;
  }
  if (item.name == "gpu" && item.count > 0) return std::vector<GresItem>{item};
  const auto index = number_in(gpus);
  // Which GPU of a node shards without a type are on, Slurm 22.05 tells a prolog wrongly.
  if (item.name != "shard" || item.type.empty() || item.count == 0 || !index) return std::nullopt;
  item.index.push_back(static_cast<int>(*index));
  return std::vector<GresItem>{item};
}

std::vector<int> parse_slurmd_gres(std::string_view output) {
  std::vector<int> numbers;
  for (const std::string_view line : split(output, '\n')) {
    bool is_gpu = false;
    for (const std::string_view word : split(line, ' ')) {
      if (const auto name = value_of(word, "Name")) is_gpu = *name == "gpu";
      const auto file = value_of(word, "File");
      if (!file || !is_gpu) continue;
      for (const std::string& path : expand_hosts(*file, 1024)) {
        const size_t digits = path.find_last_not_of("0123456789") + 1;
        const auto number = number_in(std::string_view(path).substr(digits));
        if (!number || *number > 1023) return {};
        numbers.push_back(static_cast<int>(*number));
      }
    }
  }
  return numbers;
}

}  // namespace softmig::cli
