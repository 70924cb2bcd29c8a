/* A minimal libruntime.so: enough of the rt* family for tests of the interposer, with as much memory as one asks
 * for, so that only the quota can refuse. The physical numbers of the chips come from FAKE_CHIPS ("3,5"). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static __thread int32_t current = 0;

static int chips(uint32_t *to, int max) {
    const char *text = getenv("FAKE_CHIPS");
    if (text == NULL) text = "0";
    int count = 0;
    while (*text != 0 && count < max) {
        char *end;
        to[count++] = (uint32_t)strtoul(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

int32_t rtSetDevice(int32_t device) {
    uint32_t all[16];
    if (device < 0 || device >= chips(all, 16)) return 107001;
    current = device;
    return 0;
}
int32_t rtGetDevice(int32_t *device) {
    if (getenv("FAKE_NO_DEVICE") != NULL) return 107002;
    *device = current;
    return 0;
}
int32_t rtGetDeviceCount(int32_t *count) {
    uint32_t all[16];
    *count = chips(all, 16);
    return 0;
}
int32_t rtGetDevicePhyIdByIndex(uint32_t index, uint32_t *chip) {
    uint32_t all[16];
    if ((int)index >= chips(all, 16)) return 107001;
    *chip = all[index];
    return 0;
}
/* The size stands in front of what is given out, and in the low half of the mapping nothing is ever touched. */
static char cheap[8192];
static int is_cheap = -1;
static int32_t take(void **to, uint64_t size) {
    /* For benches: costs next to nothing, so that what is measured is the interposer. */
    if (is_cheap < 0) is_cheap = getenv("FAKE_CHEAP") != NULL;
    if (is_cheap) { *to = cheap; return 0; }
    if (getenv("FAKE_FAIL") != NULL) return 207001;
    if (size == 0) return 107000;
    void *base = mmap(NULL, 4096 + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return 207001;
    *(uint64_t *)base = size;
    *to = (char *)base + 4096;
    return 0;
}
static int32_t give(void *pointer) {
    if (pointer == (void *)cheap) return 0;
    if (pointer == NULL || ((uintptr_t)pointer & 4095) != 0) return 107000;
    char *base = (char *)pointer - 4096;
    munmap(base, 4096 + *(uint64_t *)base);
    return 0;
}
int32_t rtMalloc(void **to, uint64_t size, uint32_t type, uint16_t module) { (void)type; (void)module; return take(to, size); }
/* Pools: nothing asked for succeeds and writes nothing, as the vendor's layer above does it. */
int32_t rtMemPoolMallocAsync(void **to, uint64_t size, void *pool, void *stream) {
    (void)pool; (void)stream;
    return size == 0 ? 0 : take(to, size);
}
int32_t rtMemPoolFreeAsync(void *pointer, void *stream) { (void)stream; return give(pointer); }
int32_t rtFree(void *pointer) { return give(pointer); }
struct prop { uint32_t side, device, module, page, memory; uint64_t reserve; };
int32_t rtMallocPhysical(void **handle, size_t size, struct prop *prop, uint64_t flags) { (void)prop; (void)flags; return take(handle, size); }
int32_t rtFreePhysical(void *handle) { return give(handle); }
/* Launches that cost nothing, and events that are reached at once: an event is the time of its recording. */
int32_t rtLaunchKernelByFuncHandleV3(void *function, uint32_t blocks, const void *arguments, void *stream, const void *config) {
    (void)function; (void)blocks; (void)arguments; (void)stream; (void)config;
    return 0;
}
int32_t rtEventCreateWithFlag(void **event, uint32_t flag) { (void)flag; *event = calloc(1, sizeof(struct timespec)); return 0; }
int32_t rtEventRecord(void *event, void *stream) { (void)stream; clock_gettime(CLOCK_MONOTONIC, event); return 0; }
int32_t rtEventQueryStatus(void *event, uint32_t *status) { (void)event; *status = 1; return 0; }
int32_t rtEventElapsedTime(float *ms, void *from, void *to) {
    struct timespec *a = from, *b = to;
    *ms = (float)((b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) / 1e6);
    return 0;
}
int32_t rtMemGetInfoEx(uint32_t kind, size_t *free, size_t *total) {
    (void)kind;
    *free = 60ULL << 30;
    *total = 64ULL << 30;
    return 0;
}
