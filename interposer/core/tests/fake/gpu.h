/* What the programs share that use the CUDA driver in ways that the demo program does not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *library;

static void *find(const char *name) {
    void *found = dlsym(library, name);
    if (found == NULL) {
        printf("no %s\n", name);
        exit(1);
    }
    return found;
}

/* Calls a driver function by its name and the types of its arguments. */
#define CALL(name, types, ...) ((int(*) types)find(#name))(__VA_ARGS__)

typedef void *P;
typedef uint64_t U64;
typedef uint32_t U32;

static inline size_t left(void) {
    size_t free = 0, total = 0;
    CALL(cuMemGetInfo_v2, (size_t *, size_t *), &free, &total);
    return free;
}

static inline void tell(const char *what, int code) { printf("%s %d %zu\n", what, code, left()); }

/* What is left on each of two devices. */
static inline void tell_both(const char *what, int code, P contexts[2]) {
    P before = NULL;
    size_t free[2];
    CALL(cuCtxGetCurrent, (P *), &before);
    for (int i = 0; i < 2; i++) {
        CALL(cuCtxSetCurrent, (P), contexts[i]);
        free[i] = left() >> 20;
    }
    CALL(cuCtxSetCurrent, (P), before);
    printf("%s %d %zu %zu\n", what, code, free[0], free[1]);
}

/* What pools are made from. */
struct pool {
    int kind, types, where, device;
    P security;
    size_t most;
    U64 rest[7];
};

/* A kernel that takes so long: in the stand-in driver a function is a duration. */
static inline void work(P stream, U64 milliseconds) {
    CALL(cuLaunchKernel, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)(milliseconds * 1000000), 1, 1, 1, 1,
         1, 1, 0, stream, NULL, NULL);
}

/* One thing that a program can do. */
struct part {
    const char *name;
    void (*run)(void);
};

/* Does the one that the first argument says, in the first device's primary context. The list ends with no name. */
static inline int do_part(int count, char **arguments, const struct part *all) {
    P context = NULL;
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || count < 2) return 2;
    CALL(cuInit, (U32), 0);
    CALL(cuDevicePrimaryCtxRetain, (P *, int), &context, 0);
    CALL(cuCtxSetCurrent, (P), context);
    for (; all->name != NULL; all++) {
        if (!strcmp(all->name, arguments[1])) {
            all->run();
            return 0;
        }
    }
    return 2;
}
