// Texts that come from elsewhere or go to people.
#pragma once

#include <string>
#include <string_view>

namespace softmig::host {

// Text from elsewhere (file contents, names of programs) as sound UTF-8 without control characters:
// other bytes become "\\xff".
std::string printable(std::string_view text);

// "what: No such file or directory"
std::string with_errno(const std::string& what, int error);

}  // namespace softmig::host
