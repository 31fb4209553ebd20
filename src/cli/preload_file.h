// /etc/ld.so.preload: one damaged byte there stops every exec of the node. It is only ever replaced
// by rename, and what other programs have put there stays.
#pragma once

#include <string>
#include <string_view>

namespace softmig::cli {

inline constexpr const char* kPreloadFile = "/etc/ld.so.preload";

// The text without any libsoftmig.so, and with `library` as its last line unless that is empty.
// Other entries, their order and comments stay; empty lines go.
std::string with_preload(std::string_view text, const std::string& library);

// Puts a file in place by rename: readers see the old one or the new one. Owner root, this mode.
// Throws Failure and leaves the old file; so also where `path` is a link or no regular file.
void replace_file(const std::string& path, std::string_view contents, unsigned mode);

// What a file holds; empty if it is not there. Throws Failure if it cannot be read.
std::string read_file(const std::string& path);

}  // namespace softmig::cli
