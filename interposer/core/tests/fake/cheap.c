/* A CUDA driver that does nothing, as fast as it can. With -DCLIENT, a program that takes and gives back memory, and says
   what a pair costs in nanoseconds: its arguments are the way (alloc, async) and how often. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void *P;
typedef uint64_t U64;

#ifndef CLIENT

static U64 next = 0x700000000000;

int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 7, 16); return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxGetCurrent(P *context) { *context = (P)0x1000; return 0; }
int cuCtxSetCurrent(P context) { return 0; }
int cuCtxPushCurrent_v2(P context) { return 0; }
int cuCtxPopCurrent_v2(P *context) { *context = (P)0x1000; return 0; }
int cuStreamGetCtx(P stream, P *context) { *context = (P)0x1000; return 0; }
int cuStreamIsCapturing(P stream, int *status) { *status = 0; return 0; }
int cuThreadExchangeStreamCaptureMode(int *mode) { return 0; }
int cuEventCreate(P *event, unsigned flags) { *event = (P)0x2000; return 0; }
int cuEventRecord(P event, P stream) { return 0; }
int cuEventQuery(P event) { return 0; }
int cuEventElapsedTime(float *milliseconds, P from, P to) { *milliseconds = 0; return 0; }
int cuMemAlloc_v2(U64 *address, size_t size) { *address = next; return 0; }
int cuMemFree_v2(U64 address) { return 0; }
int cuMemAllocAsync(U64 *address, size_t size, P stream) { *address = next; return 0; }
int cuMemFreeAsync(U64 address, P stream) { return 0; }
int cuDeviceGetMemPool(P *pool, int device) { *pool = (P)0x3000; return 0; }
int cuMemPoolGetAttribute(P pool, int attribute, U64 *value) { *value = 32 << 20; return 0; }
int cuMemPoolTrimTo(P pool, size_t keep) { return 0; }

#else

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e9 + at.tv_nsec;
}

int main(int count, char **arguments) {
    P library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || count < 3) return 2;
    int (*alloc)(U64 *, size_t) = dlsym(library, "cuMemAlloc_v2"), (*give)(U64) = dlsym(library, "cuMemFree_v2");
    int (*take)(U64 *, size_t, P) = dlsym(library, "cuMemAllocAsync"), (*put)(U64, P) = dlsym(library, "cuMemFreeAsync");
    long rounds = atol(arguments[2]), in_order = !strcmp(arguments[1], "async");
    int failed = 0;
    U64 address = 0;
    double begun = 0;
    for (long i = -1000; i < rounds; i++) {
        if (i == 0) begun = now();
        failed |= in_order ? take(&address, 1 << 20, NULL) : alloc(&address, 1 << 20);
        failed |= in_order ? put(address, NULL) : give(address);
    }
    printf("%d %.1f\n", failed, (now() - begun) / rounds);
    return 0;
}

#endif
