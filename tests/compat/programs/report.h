// What a program of the matrix prints: one line of JSON with its results, which must be the same
// natively and in a slice, and what it saw of the limit.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace softmig::compat {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kPiece = 64 * kMiB;

// Bytes of the slice that the program runs in; 0 natively.
inline uint64_t limit() {
  const char* text = std::getenv("COMPAT_LIMIT");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

// Long enough for what is held to be seen from outside.
inline void hold() { usleep(50000); }

// FNV-1a of the words, in the order in which they are added.
class Checksum {
 public:
  void add(const std::vector<uint32_t>& words) {
    for (uint32_t word : words) {
      for (int shift = 0; shift < 32; shift += 8) {
        hash_ = (hash_ ^ ((word >> shift) & 0xFF)) * 0x100000001B3;
      }
    }
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325;
};

class Report {
 public:
  void result(const char* name, uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "\"%llx\"", static_cast<unsigned long long>(value));
    put(&results_, name, text);
  }
  void figure(const char* name, uint64_t value) { put(&figures_, name, std::to_string(value)); }
  void version(const std::string& text) { put(&figures_, "version", '"' + text + '"'); }
  void print() const {
    std::printf("{\"results\":{%s}%s%s}\n", results_.c_str(), figures_.empty() ? "" : ",",
                figures_.c_str());
  }

 private:
  static void put(std::string* list, const char* name, const std::string& value) {
    if (!list->empty()) *list += ',';
    *list += std::string("\"") + name + "\":" + value;
  }
  std::string results_, figures_;
};

// Prints why this program cannot run here; its exit status.
inline int skip(const std::string& why) {
  std::printf("{\"skip\":\"%s\"}\n", why.c_str());
  return 0;
}

}  // namespace softmig::compat
