// Each test needs a process of its own, since a program initialises its driver once. ctest starts
// them so; where several are asked for at once, this runs them one by one.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr const char* kSelf = "/proc/self/exe";

// The names that gtest prints for --gtest_list_tests with the same filter.
std::vector<std::string> wanted_tests() {
  const std::string filter = "--gtest_filter=" + testing::GTEST_FLAG(filter);
  char path[4096] = {};
  if (readlink(kSelf, path, sizeof path - 1) < 0) return {};
  std::string command = "'";
  command.append(path).append("' --gtest_list_tests '").append(filter).append("'");
  FILE* list = popen(command.c_str(), "r");
  std::vector<std::string> names;
  std::string suite;
  for (char line[1024]; list != nullptr && fgets(line, sizeof line, list) != nullptr;) {
    const std::string text = line;
    const std::string name = text.substr(0, text.find_first_of("#\n"));
    const size_t begin = name.find_first_not_of(' '), end = name.find_last_not_of(' ');
    if (begin == 0)
      suite = name.substr(0, end + 1);
    else if (begin != std::string::npos)
      names.push_back(suite + name.substr(begin, end + 1 - begin));
  }
  if (list != nullptr) pclose(list);
  return names;
}

bool passes(const std::string& name) {
  const pid_t pid = fork();
  if (pid == 0) {
    execl(kSelf, kSelf, ("--gtest_filter=" + name).c_str(), "--gtest_brief=1", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  const std::vector<std::string> names = wanted_tests();
  if (names.size() <= 1) return RUN_ALL_TESTS();
  size_t failed = 0;
  for (const std::string& name : names) {
    if (passes(name)) continue;
    std::printf("FAILED: %s\n", name.c_str());
    ++failed;
  }
  std::printf("%zu of %zu tests passed\n", names.size() - failed, names.size());
  return failed == 0 ? 0 : 1;
}
