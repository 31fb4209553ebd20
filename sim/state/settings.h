// What the simulated node has: its GPUs and the costs of their driver. Read once, when the state
// file is made; from then on the file holds it.
//
//   SOFTMIG_SIM = GROUP[+GROUP...][,KEY=VALUE...]
//   GROUP       = COUNTxMEMORY[:MODEL]          2x48G:l40s  1x80G:h100
//   KEY         = context    a context's memory in the process list (default 518M)
//                 overhead   what a context takes beside that (5696K)
//                 base       taken from the card while any process uses it (3328K)
//                 reserved   kept by the driver from boot on (1/128 of the card)
//                 managed    taken at the first use of managed memory on a card, by any process
//                            (124M)
//                 accounting  1: NVML's accounting is on (0)
//                 unknown    1: NVML does not know what a process uses (0)
//                 kernel     how long a kernel runs whose work nobody gave, in us (2)
//                 slice      how long a context has a card while others wait for it, in us (2000)
//                 switch     what it costs to put another context there, in us (70)
//                 refill     what the first kernel costs that such a context begins, in us (140)
//
// Slice, switch and refill are chosen so that four contexts that always have work lose together
// what they lose on an H100: 10 % with kernels of 200 us and 2 ms and with graphs of such, 4 % with
// 20 ms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace softmig::sim {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;
constexpr uint64_t kPage = 2 * kMiB;  // all device memory is taken in pages of this size

constexpr uint64_t round_up(uint64_t value, uint64_t step) {
  return (value + step - 1) / step * step;
}

// A kind of card. Figures are those of the real one.
struct Model {
  std::string_view key;
  std::string_view name;
  uint32_t pci_device_id;
  int multiprocessors;
  int threads_per_multiprocessor;
  int major;
  int minor;
  int clock_khz;
  int memory_clock_khz;
  int bus_bits;
  int l2_bytes;
  int shared_per_multiprocessor;
};

const Model* find_model(std::string_view key);

struct Settings {
  struct Card {
    const Model* model;
    uint64_t memory;
  };
  std::vector<Card> cards;
  uint64_t context_listed = 518 * kMiB;
  uint64_t context_unlisted = 5696 * kKiB;
  uint64_t base = 3328 * kKiB;
  uint64_t reserved = 0;  // 0: 1/128 of the card
  uint64_t managed = 124 * kMiB;
  uint64_t kernel_ns = 2000;
  uint64_t slice_ns = 2'000'000;
  uint64_t switch_ns = 70'000;
  uint64_t refill_ns = 140'000;
  uint64_t accounting = 0;
  uint64_t unknown = 0;
};

// Sizes: digits with K, M, G or nothing. Returns false, with a text, where the grammar is not met.
bool parse_settings(std::string_view text, Settings* out, std::string* error);

}  // namespace softmig::sim
