// The line reader against the obvious way to split a text.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/text.h"
#include "fuzz.h"
#include "sys/files.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Each byte stands for a run of bytes, so that lines longer than the buffer are common.
  std::string text;
  for (size_t i = 0; i < size; i++)
    text.append(data[i] % 64 == 0 ? 1 : data[i] * 8u, data[i] % 4 ? 'a' : '\n');
  const int fd = memfd_create("lines", 0);
  fuzz::must(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  lseek(fd, 0, SEEK_SET);
  sys::LineReader lines(fd);
  std::string_view rest = text, line;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const std::string_view expected = base::head(rest, end);
    fuzz::must(lines.next(&line));
    fuzz::must(lines.cut() == (expected.size() >= sys::LineReader::kMaxLine));
    fuzz::must(line == base::head(expected, sys::LineReader::kMaxLine));
    rest = end == std::string_view::npos ? std::string_view{} : base::tail(rest, end + 1);
  }
  fuzz::must(!lines.next(&line) && lines.error() == 0);
  close(fd);
  return 0;
}
