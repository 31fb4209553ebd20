#include "agent/names.h"

#include <pwd.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "host/text.h"

namespace softmig::agent {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(100);
constexpr size_t kMostNames = 4096;

std::string ask(uint32_t uid) {
  std::vector<char> room(16384);
  passwd entry = {};
  passwd* found = nullptr;
  getpwuid_r(uid, &entry, room.data(), room.size(), &found);
  return found != nullptr ? host::printable(found->pw_name) : std::to_string(uid);
}

}  // namespace

struct Names::Work {
  std::mutex mutex;
  std::condition_variable changed;
  bool stop = false;
  std::map<uint32_t, std::string> names;  // empty: not told yet

  void run() {
    std::unique_lock lock(mutex);
    while (!stop) {
      auto open = names.begin();
      while (open != names.end() && !open->second.empty()) ++open;
      if (open == names.end()) {
        changed.wait(lock);
        continue;
      }
      const uint32_t uid = open->first;
      lock.unlock();
      const std::string name = ask(uid);
      lock.lock();
      names[uid] = name;
      changed.notify_all();
    }
  }
};

Names::Names() : work_(std::make_shared<Work>()) {
  std::thread([work = work_] { work->run(); }).detach();
}

Names::~Names() {
  const std::lock_guard lock(work_->mutex);
  work_->stop = true;
  work_->changed.notify_all();
}

std::string Names::user(uint32_t uid) {
  std::unique_lock lock(work_->mutex);
  if (work_->names.size() > kMostNames) work_->names.clear();
  const bool first = work_->names.try_emplace(uid).second;
  if (first) {
    work_->changed.notify_all();
    work_->changed.wait_for(lock, kPatience, [&] { return !work_->names[uid].empty(); });
  }
  const std::string& name = work_->names[uid];
  return name.empty() ? std::to_string(uid) : name;
}

}  // namespace softmig::agent
