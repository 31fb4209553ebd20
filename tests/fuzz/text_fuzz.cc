// What is interpolated into log lines: never a control byte, never past the end.
#include <cstring>
#include <string>

#include "base/format.h"
#include "fuzz.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::text_of(data + 1, size - 1));
  char buffer[300];
  memset(buffer, 'Q', sizeof buffer);
  base::Text line(buffer, 1 + data[0]);
  base::format(line, "%s|%.*s|%.3s|%c|%d", text.c_str(), static_cast<int>(text.size()), text.data(),
               text.c_str(), text.empty() ? 'x' : text[0], static_cast<int>(size));
  fuzz::must(line.size() <= data[0] && buffer[line.size()] == '\0');
  fuzz::must(fuzz::is_plain(line.view()));
  for (size_t i = 1u + data[0]; i < sizeof buffer; i++) fuzz::must(buffer[i] == 'Q');
  return 0;
}
