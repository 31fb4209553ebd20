#include <cstring>
#include <initializer_list>

#include "life/life.h"

int main(int argc, char** argv) {
  using namespace softmig::preload_test;
  if (argc < 2) return 2;
  for (const Check* checks : {kForkChecks, kEndChecks, kQuietChecks, kReuseChecks}) {
    for (const Check* check = checks; check->name != nullptr; check++) {
      if (strcmp(check->name, argv[1]) == 0) return check->run() ? 0 : 1;
    }
  }
  fprintf(stderr, "life: no check %s\n", argv[1]);
  return 2;
}
