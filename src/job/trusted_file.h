// Root's files in the run directory, opened so that nothing that a user could have planted is read.
#pragma once

#include "base/text.h"
#include "job/config.h"
#include "sys/files.h"

namespace softmig::job {

// The uid map is not that of the whole system: uids seen here are not those of the node.
bool in_user_namespace(const Places& places);

// The uid that a file of Places::trusted_uid shows here: itself under the full uid map, the
// overflow uid in a user namespace. False if files of this process's own user look the same.
bool visible_owner(const Places& places, uint32_t* uid);

// This process's user as the namespace around it numbers him.
uint32_t outer_uid(const Places& places);

class RunDirectory {
 public:
  explicit RunDirectory(const Places& places);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  // Descriptor of a file that is there and safe to read; *status is what it was when it was opened.
  // -1 otherwise: *absent says that there is no such file, else `error` says what is wrong.
  int open(const char* name, sys::FileStatus* status, bool* absent, base::Text& error) const;

  bool is_there() const { return fd_ >= 0; }
  bool is_absent() const;  // else it may be there and not be open, for lack of permission
  int fd() const { return fd_; }

 private:
  int open_current(const char* name, sys::FileStatus* status) const;
  const char* fault_of_directory() const;
  void describe_failure(int reason, const char* name, base::Text& error) const;

  const Places& places_;
  const int fd_;
  int open_error_ = 0;
};

}  // namespace softmig::job
