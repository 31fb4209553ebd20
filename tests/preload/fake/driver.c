/* A libcuda.so.1 that is as small as can be: one device of 80 GiB that grants everything. It is
 * made of nothing but itself, no C library, so that it loads in any world (old glibc, musl); it
 * holds no lock, so that whatever hangs is ours; it is really unloaded by dlclose; it never touches
 * errno. */
#include <stddef.h>
#include <stdint.h>

enum { kSuccess = 0, kInvalidValue = 1, kInvalidContext = 201, kNotFound = 500 };
enum { kVersion = 13000 };

static const uint64_t kTotal = (uint64_t)80 << 30;
static const uint64_t kPage = (uint64_t)2 << 20;

/* For tests, by dlsym. What the next end of something runs when its handle can be had again, and
 * before the caller hears of it, as another thread might; and the result that refuses to end it. */
void (*fake_after_end)(void);
int fake_refusal;

static char g_context;  /* its address is the one handle there is */
static void* g_current; /* of all threads: good enough here */
static uint64_t g_next = (uint64_t)1 << 40;
static uint64_t g_last; /* what cuMemAlloc gave last */

static int end_handle(void) {
  void (*after_end)(void) = fake_after_end;
  if (fake_refusal != kSuccess) return fake_refusal;
  fake_after_end = NULL;
  if (after_end != NULL) after_end();
  return kSuccess;
}

int cuInit(unsigned flags) { return flags == 0 ? kSuccess : kInvalidValue; }

int cuDriverGetVersion(int* version) {
  *version = kVersion;
  return kSuccess;
}

int cuDeviceGetCount(int* count) {
  *count = 1;
  return kSuccess;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? kSuccess : kInvalidValue;
}

int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(i + 1);
  return device == 0 ? kSuccess : kInvalidValue;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = kTotal;
  return device == 0 ? kSuccess : kInvalidValue;
}

int cuCtxCreate_v2(void** context, unsigned flags, int device) {
  if (context == NULL || device != 0) return kInvalidValue;
  (void)flags;
  *context = g_current = &g_context;
  return kSuccess;
}

int cuCtxDestroy_v2(void* context) {
  if (context != &g_context) return kInvalidContext;
  if (fake_refusal == kSuccess) g_current = NULL;
  return end_handle();
}

int cuCtxGetCurrent(void** context) {
  *context = g_current;
  return kSuccess;
}

int cuCtxSetCurrent(void* context) {
  g_current = context;
  return kSuccess;
}

int cuCtxGetDevice(int* device) {
  *device = 0;
  return g_current != NULL ? kSuccess : kInvalidContext;
}

int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  if (address == NULL || bytes == 0) return kInvalidValue;
  if (g_current == NULL) return kInvalidContext;
  *address = __atomic_fetch_add(&g_next, (bytes + kPage - 1) / kPage * kPage, __ATOMIC_RELAXED);
  __atomic_store_n(&g_last, *address, __ATOMIC_RELAXED);
  return kSuccess;
}

int cuMemFree_v2(uint64_t address) { return address != 0 ? kSuccess : kInvalidValue; }

int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  *free_bytes = *total = kTotal;
  return g_current != NULL ? kSuccess : kInvalidContext;
}

/* One handle of each kind: whoever asks while one is out gets the same. */
int cuMemCreate(uint64_t* handle, size_t bytes, const void* properties, uint64_t flags) {
  (void)properties, (void)flags;
  *handle = 0x1000;
  return bytes % kPage == 0 ? kSuccess : kInvalidValue;
}

int cuMemRelease(uint64_t handle) {
  (void)handle;
  return end_handle();
}

int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle, uint64_t flags) {
  (void)address, (void)bytes, (void)offset, (void)handle, (void)flags;
  return kSuccess;
}

int cuMemUnmap(uint64_t address, size_t bytes) {
  (void)address, (void)bytes;
  return end_handle();
}

int cuModuleLoadData(void** module, const void* image) {
  *module = &g_next;
  return image != NULL ? kSuccess : kInvalidValue;
}

int cuModuleUnload(void* module) {
  (void)module;
  return end_handle();
}

int cuImportExternalMemory(void** memory, const void* description) {
  *memory = &g_last;
  return description != NULL ? kSuccess : kInvalidValue;
}

int cuDestroyExternalMemory(void* memory) {
  (void)memory;
  return end_handle();
}

typedef struct {
  char text[64];
} IpcHandle;

int cuIpcGetMemHandle(IpcHandle* handle, uint64_t address) {
  for (int i = 0; i < 64; i++) handle->text[i] = (char)(address >> i % 8 * 8);
  return kSuccess;
}

int cuIpcOpenMemHandle_v2(uint64_t* address, IpcHandle handle, unsigned flags) {
  (void)handle, (void)flags;
  *address = 0x2000;
  return kSuccess;
}

int cuIpcCloseMemHandle(uint64_t address) {
  (void)address;
  return end_handle();
}

int cuMemGetAddressRange_v2(uint64_t* base, size_t* bytes, uint64_t address) {
  *base = g_last;
  *bytes = g_next - g_last;
  return address == g_last ? kSuccess : kInvalidValue;
}

static int equal(const char* a, const char* b) {
  while (*a != 0 && *a == *b) a++, b++;
  return *a == *b;
}

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags,
                        int* status);

int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
  int status;
  return cuGetProcAddress_v2(name, function, version, flags, &status);
}

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags,
                        int* status) {
  static const struct {
    const char* name;
    int since;
    void* function;
  } kTable[] = {{"cuInit", 2000, (void*)cuInit},
                {"cuMemAlloc", 3020, (void*)cuMemAlloc_v2},
                {"cuMemFree", 3020, (void*)cuMemFree_v2},
                {"cuMemGetInfo", 3020, (void*)cuMemGetInfo_v2},
                {"cuCtxCreate", 3020, (void*)cuCtxCreate_v2},
                {"cuGetProcAddress", 12000, (void*)cuGetProcAddress_v2}};
  (void)flags;
  *function = NULL;
  for (size_t i = 0; i < sizeof kTable / sizeof kTable[0]; i++) {
    if (equal(kTable[i].name, name) && kTable[i].since <= version) *function = kTable[i].function;
  }
  if (status != NULL) *status = *function == NULL;
  return *function != NULL ? kSuccess : kNotFound;
}
