#include "cli/output.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/bytes.h"
#include "cli/failure.h"

namespace softmig::cli {

std::string size_text(uint64_t bytes) {
  if (bytes % base::kMiB == 0) return fmt::format("{} MiB", bytes / base::kMiB);
  if (bytes >= base::kMiB)
    return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / base::kMiB);
  if (bytes % base::kKiB == 0) return fmt::format("{} KiB", bytes / base::kKiB);
  return fmt::format("{} B", bytes);
}

Style::Style(std::FILE* stream) {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  on_ = isatty(fileno(stream)) == 1 && (no_color == nullptr || *no_color == '\0') &&
        term != nullptr && std::strcmp(term, "dumb") != 0;
}

std::string Style::wrap(const char* code, std::string_view text) const {
  return on_ ? fmt::format("\033[{}m{}\033[0m", code, text) : std::string(text);
}

std::string Table::text(const Style& style, std::string_view indent) const {
  std::vector<size_t> width(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); i++) width[i] = std::max(width[i], row[i].size());
  }
  std::string result;
  for (size_t r = 0; r < rows_.size(); r++) {
    std::string line;
    for (size_t i = 0; i < rows_[r].size(); i++) {
      const char* form = columns_[i] == Align::kRight ? "{:>{}}" : "{:<{}}";
      line += (i == 0 ? "" : "  ") + fmt::format(fmt::runtime(form), rows_[r][i], width[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result += std::string(indent) + (r == 0 ? style.bold(line) : line) + '\n';
  }
  return result;
}

}  // namespace softmig::cli
