/* What a user who wants past the library can write: a dlsym that stands before all others
 * (LD_PRELOAD) and finds symbols in the tables of the object itself. */
#define _GNU_SOURCE
#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t hash_of(const char *name) {
  uint32_t hash = 5381;
  for (; *name != 0; name++) hash = hash * 33 + (unsigned char)*name;
  return hash;
}

static void *find(const struct link_map *object, const char *name) {
  const ElfW(Sym) *symbols = NULL;
  const char *strings = NULL;
  const uint32_t *table = NULL;
  for (const ElfW(Dyn) *entry = object->l_ld; entry->d_tag != DT_NULL; entry++) {
    if (entry->d_tag == DT_SYMTAB) symbols = (const void *)entry->d_un.d_ptr;
    if (entry->d_tag == DT_STRTAB) strings = (const void *)entry->d_un.d_ptr;
    if (entry->d_tag == DT_GNU_HASH) table = (const void *)entry->d_un.d_ptr;
  }
  if (symbols == NULL || strings == NULL || table == NULL) return NULL;
  const uint32_t buckets = table[0], first = table[1], words = table[2];
  const uint32_t *bucket = table + 4 + words * (sizeof(ElfW(Addr)) / 4);
  const uint32_t *chain = bucket + buckets;
  const uint32_t hash = hash_of(name);
  for (uint32_t i = bucket[hash % buckets]; i >= first; i++) {
    const uint32_t other = chain[i - first];
    if ((other | 1) == (hash | 1) && strcmp(strings + symbols[i].st_name, name) == 0) {
      return (char *)object->l_addr + symbols[i].st_value;
    }
    if ((other & 1) != 0) break;
  }
  return NULL;
}

void *dlsym(void *handle, const char *name) {
  const struct link_map *object = handle;
  return object == NULL || (intptr_t)handle == -1 ? NULL : find(object, name);
}
