// A library that has nothing to do with CUDA, and names like those of others that begin as CUDA's
// do. It even defines a driver's function, as a re-implementation of CUDA would.
extern "C" {
int curl_easy_init() { return 1; }
int cupsGetDests() { return 2; }
int curs_set() { return 3; }
int cuserid() { return 4; }
int cu() { return 5; }
int cuMemAlloc_v2_count() { return 6; }
int nvlist_add() { return 7; }
int nvmlDeviceGetMemoryInfo() { return 8; }
int cuMemAlloc_v2() { return 9; }
}
