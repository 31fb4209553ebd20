// Names of users, asked by a thread of their own: a directory server may take its time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace softmig::agent {

class Names {
 public:
  Names();
  ~Names();
  Names(const Names&) = delete;
  Names& operator=(const Names&) = delete;

  // The name, or the number where there is none or it was not told within a moment: the first time
  // that takes 100 ms at most.
  std::string user(uint32_t uid);

 private:
  struct Work;
  std::shared_ptr<Work> work_;
};

}  // namespace softmig::agent
