/* A CUDA driver of a version to come: it has functions that nobody knows yet. With -DCLIENT, a program that asks for
   them by each version of cuGetProcAddress. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int (*ask2)(const char *, void **, int, uint64_t, int *);
typedef int (*ask1)(const char *, void **, int, uint64_t);

#ifndef CLIENT

int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 7 + device, 16); return 0; }

int cuMemAlloc_v2(uint64_t *address, size_t size) { *address = 0x700000000000 + size; return 0; }
int cuMemAlloc_v9(uint64_t *address, size_t size) { return cuMemAlloc_v2(address, size); }
int cuMemAllocSomehow(uint64_t *address, size_t size) { return cuMemAlloc_v2(address, size); }
int cuLaunchHostFunc(void *stream, void *function, void *data) { return 0; }
int cuPaintItBlack(void) { return 0; }

static int find(const char *name, void **function, int version, int *status) {
    static const struct { const char *name; int since; void *function; } all[] = {
        {"cuMemAlloc", 14000, cuMemAlloc_v9},
        {"cuMemAlloc", 0, cuMemAlloc_v2},
        {"cuMemAllocSomehow", 0, cuMemAllocSomehow},
        {"cuLaunchHostFunc", 0, cuLaunchHostFunc},
        {"cuPaintItBlack", 0, cuPaintItBlack},
    };
    *function = NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (*function == NULL && !strcmp(all[i].name, name) && version >= all[i].since) *function = all[i].function;
    }
    if (status != NULL) *status = *function == NULL;
    return *function == NULL ? 500 : 0;
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return flags == 3 ? 1 : find(name, function, version, NULL);
}
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    return flags == 3 ? 1 : find(name, function, version, status);
}
int cuGetProcAddress_v2_ptsz(const char *name, void **function, int version, uint64_t flags, int *status) {
    return cuGetProcAddress_v2(name, function, version, flags, status);
}

#else

#include <dlfcn.h>
#include <stdio.h>

int main(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *preload = dlopen("libvnpu.so", RTLD_NOW | RTLD_NOLOAD);
    const char *names[] = {"cuMemAlloc", "cuMemAllocSomehow", "cuLaunchHostFunc", "cuPaintItBlack", "cuNothing"};
    const char *askers[] = {"cuGetProcAddress", "cuGetProcAddress_v2", "cuGetProcAddress_v2_ptsz"};
    for (int a = 0; a < 3; a++) {
        void *ask = dlsym(library, askers[a]);
        for (int version = 12000; version <= 14000; version += 2000) {
            for (int n = 0; n < 5; n++) {
                void *found = (void *)1;
                int status = -1;
                int code = a == 0 ? ((ask1)ask)(names[n], &found, version, 1)
                                  : ((ask2)ask)(names[n], &found, version, 1, &status);
                Dl_info info;
                const char *whose = "nobody";
                if (found != NULL && dladdr(found, &info)) whose = strstr(info.dli_fname, "libvnpu") ? "ours" : "theirs";
                printf("%s %d %s %d %d %s\n", askers[a], version, names[n], code, status, whose);
            }
        }
        void *found = (void *)1;
        int code = a == 0 ? ((ask1)ask)("cuMemAlloc", &found, 12000, 3)
                          : ((ask2)ask)("cuMemAlloc", &found, 12000, 3, NULL);
        printf("%s wrong flags %d %d\n", askers[a], code, found == (void *)1);
        code = a == 0 ? 0 : ((ask2)ask)("cuMemAlloc", &found, 12000, 1, NULL);
        printf("%s no status %d\n", askers[a], code);
    }
    return preload == NULL;
}

#endif
