#include "cli/job_gres.h"

#include <fmt/core.h>

#include <charconv>

namespace softmig::cli {
namespace {

std::optional<uint64_t> number_in(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Pieces between separators that are not in brackets or parentheses.
std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  int depth = 0;
  for (size_t i = 0; i <= text.size(); i++) {
    if (i == text.size() || (text[i] == separator && depth == 0)) {
      if (i > begin) pieces.push_back(text.substr(begin, i - begin));
      begin = i + 1;
    } else if (text[i] == '[' || text[i] == '(') {
      depth++;
    } else if (text[i] == ']' || text[i] == ')') {
      depth--;
    }
  }
  return pieces;
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
  const std::string wanted = fmt::format("JobId={}", job_id);
  for (const std::string_view record : split(records, '\n')) {
    const std::vector<std::string_view> words = split(record, ' ');
    if (words.empty() || words.front() != wanted) continue;
    // "Nodes=n[1-2] CPU_IDs=0 Mem=100 GRES=...", once for each group of equal nodes.
    bool here = false;
    for (const std::string_view word : words) {
      if (const auto hosts = value_of(word, "Nodes")) here = holds(*hosts, node);
      const auto detail = value_of(word, "GRES");
      if (!detail || !here) continue;
      const auto parsed = parse_gres(*detail);
      if (!parsed) return RecordStatus::kBadGres;
      *items = *parsed;
      return RecordStatus::kOk;
    }
    return RecordStatus::kNoNode;
  }
  return RecordStatus::kNoJob;
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
