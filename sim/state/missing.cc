// Takes functions out of this library's own symbol table when it is loaded, so that dlsym does not
// find them: the rule missing=FUNCTION of SOFTMIG_SIM_FAULT.
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "state/faults.h"

namespace softmig::sim {
namespace {

struct Table {
  Elf64_Sym* symbols = nullptr;
  const char* names = nullptr;
  const uint32_t* hash = nullptr;  // DT_HASH: the number of symbols is its second word
};

int find_own(dl_phdr_info* info, size_t, void* out) {
  const auto here = reinterpret_cast<uintptr_t>(&find_own);
  const Elf64_Phdr* dynamic = nullptr;
  bool own = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const Elf64_Phdr& segment = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    own |= segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz;
    if (segment.p_type == PT_DYNAMIC) dynamic = &segment;
  }
  if (!own || dynamic == nullptr) return 0;
  auto* table = static_cast<Table*>(out);
  for (auto* entry = reinterpret_cast<Elf64_Dyn*>(info->dlpi_addr + dynamic->p_vaddr);
       entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag == DT_SYMTAB) table->symbols = reinterpret_cast<Elf64_Sym*>(entry->d_un.d_ptr);
    if (entry->d_tag == DT_STRTAB) table->names = reinterpret_cast<const char*>(entry->d_un.d_ptr);
    if (entry->d_tag == DT_HASH) table->hash = reinterpret_cast<const uint32_t*>(entry->d_un.d_ptr);
  }
  return 1;
}

void make_undefined(Elf64_Sym* symbol) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(symbol) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(symbol + 1);
  if (mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_READ | PROT_WRITE) != 0) return;
  symbol->st_shndx = SHN_UNDEF;
  symbol->st_value = 0;
  mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_READ);
}

__attribute__((constructor)) void remove_missing() {
  // Not has_faults(): that would settle the rules before the program had a chance to set them.
  if (getenv("SOFTMIG_SIM_FAULT") == nullptr) return;
  Table table;
  dl_iterate_phdr(find_own, &table);
  if (table.symbols == nullptr || table.names == nullptr || table.hash == nullptr) return;
  for (uint32_t i = 0; i < table.hash[1]; ++i) {
    Elf64_Sym& symbol = table.symbols[i];
    if (symbol.st_shndx != SHN_UNDEF && is_missing(table.names + symbol.st_name))
      make_undefined(&symbol);
  }
}

}  // namespace
}  // namespace softmig::sim
