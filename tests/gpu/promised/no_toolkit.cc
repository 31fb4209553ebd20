// Stands for a program of the runtime API where nvcc was not there to build it.
#include <cstdio>

int main() {
  std::printf("SKIP: built without nvcc, which this program of the runtime API needs\n");
  return 0;
}
