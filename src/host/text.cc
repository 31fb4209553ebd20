#include "host/text.h"

#include <fmt/core.h>

#include <cstring>

namespace softmig::host {

std::string with_errno(const std::string& what, int error) {
  return what + ": " + std::strerror(error);
}

std::string printable(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace softmig::host
