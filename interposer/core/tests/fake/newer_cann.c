/* A runtime of CANN of a version to come. With -DCLIENT, a program that asks for its functions by dlsym. */
#define _GNU_SOURCE
#include <stddef.h>

#ifndef CLIENT

int aclrtMallocImpl(void **address, size_t size, int policy) { return 0; }
int aclrtMalloc(void **address, size_t size, int policy) { return aclrtMallocImpl(address, size, policy); }
int aclrtMallocSomehow(void **address, size_t size) { return 0; }
int aclrtMallocHostSomehow(void **address, size_t size) { return 0; }
int aclrtLaunchCallback(void *function, void *data, int block, void *stream) { return 0; }
int rtKernelLaunch(const void *stub, unsigned blocks, void *args, unsigned size, void *desc, void *stream) { return 0; }
int rtKernelLaunchAnew(const void *stub) { return 0; }
int rtsModelExecuteAnew(void *model) { return 0; }
int rtStreamCreate(void **stream, int priority) { return 0; }
int rtsGetDevice(int *device) { *device = 0; return 0; }
int rtGetDevice(int *device) { *device = 0; return 0; }

#else

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    void *library = dlopen("libruntime.so", RTLD_NOW | RTLD_GLOBAL);
    const char *names[] = {"aclrtMallocImpl", "aclrtMalloc", "aclrtMallocSomehow", "aclrtMallocHostSomehow",
                           "aclrtLaunchCallback", "rtKernelLaunch", "rtKernelLaunchAnew", "rtsModelExecuteAnew",
                           "rtMallocSomehow", "rtStreamCreate"};
    if (library == NULL) return 1;
    for (int place = 0; place < 2; place++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            void *found = dlsym(place == 0 ? library : RTLD_DEFAULT, names[i]);
            Dl_info in = {0};
            const char *whose = "nobody";
            if (found != NULL) {
                dladdr(found, &in);
                whose = strstr(in.dli_fname, "libvnpu") != NULL ? "ours" : "theirs";
            }
            printf("%s %s %s\n", place == 0 ? "library" : "everywhere", names[i], whose);
        }
    }
    return 0;
}

#endif
