#include "state/identity.h"

#include <cstdio>

namespace softmig::sim {

std::string uuid_text(const DeviceRow& device) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    char digits[4];
    std::snprintf(digits, sizeof digits, "%02x", device.uuid[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += digits;
  }
  return text;
}

std::string bus_text(const DeviceRow& device) {
  char text[32];
  std::snprintf(text, sizeof text, "%08X:%02X:%02X.0", device.pci_domain, device.pci_bus,
                device.pci_slot);
  return text;
}

}  // namespace softmig::sim
