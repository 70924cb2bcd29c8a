/* Memory of a GPU. */
#include "gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* The functions of before CUDA 3.2: addresses and sizes of 32 bits. */
static void old(void) {
    U32 address = 0, free = 0, total = 0;
    tell("alloc", CALL(cuMemAlloc, (U32 *, U32), &address, 5 << 20));
    int code = CALL(cuMemGetInfo, (U32 *, U32 *), &free, &total);
    printf("info %d %u %u\n", code, free, total);
    total = 0;
    code = CALL(cuDeviceTotalMem, (U32 *, int), &total, 0);
    printf("total %d %u\n", code, total);
    tell("free", CALL(cuMemFree, (U32), address));
    tell("too much", CALL(cuMemAlloc, (U32 *, U32), &address, 65 << 20));
    struct { U32 width, height, format, channels; } plane = {4096, 512, 8, 2};
    P array = NULL;
    tell("array", CALL(cuArrayCreate, (P *, void *), &array, &plane));
    tell("destroy", CALL(cuArrayDestroy, (P), array));
    struct { U32 width, height, depth, format, channels, flags; } deep = {64, 64, 64, 0x20, 4, 0};
    tell("deep", CALL(cuArray3DCreate, (P *, void *), &array, &deep));
    tell("destroy", CALL(cuArrayDestroy, (P), array));
}

/* Arrays by their formats and levels. */
static void arrays(void) {
    struct { size_t width, height, depth; U32 format, channels, flags; } deep = {1000, 100, 10, 0x10, 4, 0};
    P array = NULL;
    tell("half", CALL(cuArray3DCreate_v2, (P *, void *), &array, &deep));
    tell("destroy", CALL(cuArrayDestroy, (P), array));
    deep.format = 3;
    tell("levels", CALL(cuMipmappedArrayCreate, (P *, void *, U32), &array, &deep, 4));
    tell("destroy", CALL(cuMipmappedArrayDestroy, (P), array));
    deep.depth = 0;
    deep.height = 0;
    tell("all levels", CALL(cuMipmappedArrayCreate, (P *, void *, U32), &array, &deep, 99));
    tell("destroy", CALL(cuMipmappedArrayDestroy, (P), array));
    deep.width = deep.height = 512;
    deep.depth = 6;
    for (U32 flags = 1; flags <= 5; flags += 2) {
        deep.flags = flags == 3 ? 4 : flags;
        tell("layers", CALL(cuMipmappedArrayCreate, (P *, void *, U32), &array, &deep, 10));
        tell("destroy", CALL(cuMipmappedArrayDestroy, (P), array));
    }
    deep.flags = 0x40;
    tell("sparse", CALL(cuArray3DCreate_v2, (P *, void *), &array, &deep));
    tell("destroy", CALL(cuArrayDestroy, (P), array));
    deep.flags = 0;
    deep.channels = 3;
    tell("wrong", CALL(cuArray3DCreate_v2, (P *, void *), &array, &deep));
    tell("nothing", CALL(cuArray3DCreate_v2, (P *, void *), &array, NULL));
}

struct properties {
    int kind, types, where, device;
    P metadata;
    U64 rest;
};

/* Physical memory with several handles. */
static void handles(void) {
    struct properties properties = {1, 1, 1, 0, NULL, 0};
    U64 handle = 0, again = 0, address = 0, imported = 0;
    size_t size = 16 << 20;
    int descriptor = -1;
    tell("create", CALL(cuMemCreate, (U64 *, size_t, void *, U64), &handle, size, &properties, 0));
    CALL(cuMemAddressReserve, (U64 *, size_t, size_t, U64, U64), &address, size, 0, 0, 0);
    tell("map", CALL(cuMemMap, (U64, size_t, size_t, U64, U64), address, size, 0, handle, 0));
    tell("retain", CALL(cuMemRetainAllocationHandle, (U64 *, P), &again, (P)address));
    tell("release", CALL(cuMemRelease, (U64), handle));
    tell("unmap", CALL(cuMemUnmap, (U64, size_t), address, size));
    tell("unmap again", CALL(cuMemUnmap, (U64, size_t), address, size));
    tell("export", CALL(cuMemExportToShareableHandle, (P, U64, int, U64), &descriptor, again, 1, 0));
    tell("import", CALL(cuMemImportFromShareableHandle, (U64 *, P, int), &imported, (P)(intptr_t)descriptor, 1));
    tell("release", CALL(cuMemRelease, (U64), again));
    close(descriptor);
    tell("release imported", CALL(cuMemRelease, (U64), imported));
    tell("release again", CALL(cuMemRelease, (U64), again));
    tell("odd", CALL(cuMemCreate, (U64 *, size_t, void *, U64), &handle, size + 1, &properties, 0));
    tell("too much", CALL(cuMemCreate, (U64 *, size_t, void *, U64), &handle, 66 << 20, &properties, 0));
}

static U64 physical(size_t size) {
    struct properties properties = {1, 1, 1, 0, NULL, 0};
    U64 handle = 0;
    tell("create", CALL(cuMemCreate, (U64 *, size_t, void *, U64), &handle, size, &properties, 0));
    return handle;
}

static U64 addresses(size_t size) {
    U64 address = 0;
    CALL(cuMemAddressReserve, (U64 *, size_t, size_t, U64, U64), &address, size, 0, 0, 0);
    return address;
}

static void map(const char *what, U64 address, size_t size, U64 handle) {
    tell(what, CALL(cuMemMap, (U64, size_t, size_t, U64, U64), address, size, 0, handle, 0));
}

static void unmap(const char *what, U64 address, size_t size) {
    tell(what, CALL(cuMemUnmap, (U64, size_t), address, size));
}

static void release(const char *what, U64 handle) { tell(what, CALL(cuMemRelease, (U64), handle)); }

/* Another process, that has memory and gives it out until it is told to end. */
static void owner(void) {
    sigset_t end;
    int descriptor = -1, caught = 0;
    U64 handle = 0;
    struct properties properties = {1, 1, 1, 0, NULL, 0};
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    CALL(cuMemCreate, (U64 *, size_t, void *, U64), &handle, 16 << 20, &properties, 0);
    CALL(cuMemExportToShareableHandle, (P, U64, int, U64), &descriptor, handle, 1, 0);
    printf("/proc/%d/fd/%d\n", getpid(), descriptor);
    fflush(stdout);
    sigwait(&end, &caught);
    close(descriptor);
    CALL(cuMemRelease, (U64), handle);
}

/* A descriptor of that process's memory. */
static int theirs(int *pid) {
    char command[4096], path[64] = "";
    snprintf(command, sizeof command, "exec %s owner", program_invocation_name);
    FILE *out = popen(command, "r");
    if (out == NULL || fgets(path, sizeof path, out) == NULL || sscanf(path, "/proc/%d", pid) != 1) exit(1);
    path[strcspn(path, "\n")] = 0;
    return open(path, O_RDWR);
}

/* Unmappings that the driver refuses, and such of several mappings at once. */
static void unmaps(void) {
    size_t size = 16 << 20;
    U64 address = addresses(3 * size), handle = physical(size), other = 0;
    map("map", address, size, handle);
    unmap("a part", address, size / 2);
    unmap("more than it", address, 2 * size);
    unmap("not its start", address + size / 2, size / 2);
    release("mapped still", handle);
    unmap("a part again", address, size / 2);
    unmap("all", address, size);

    int owner = 0, descriptor = theirs(&owner);
    tell("import", CALL(cuMemImportFromShareableHandle, (U64 *, P, int), &other, (P)(intptr_t)descriptor, 1));
    close(descriptor);
    map("imported", address, size, other);
    release("its handle", other);
    other = physical(size);
    map("beside it", address + size, size, other);
    release("its handle", other);
    other = physical(size);
    map("and a third", address + 2 * size, size, other);
    release("its handle", other);
    unmap("all but the third", address, 2 * size);
    unmap("the third and more", address + 2 * size, 2 * size);
    unmap("the third", address + 2 * size, size);
    handle = physical(size);
    map("the first's place", address, size, handle);
    release("its handle", handle);
    unmap("it", address, size);
    kill(owner, SIGTERM);
    waitpid(owner, NULL, 0);
    tell("all", 0);
}

/* One of each kind of memory that a context has. */
static void take_all(void) {
    struct { size_t width, height; U32 format, channels; } plane = {1024, 1024, 1, 1};
    struct { size_t width, height, depth; U32 format, channels, flags; } deep = {1024, 1024, 1, 1, 1, 0};
    U64 address = 0;
    size_t pitch = 0;
    P array = NULL;
    tell("plain", CALL(cuMemAlloc_v2, (U64 *, size_t), &address, 3 << 20));
    tell("pitched", CALL(cuMemAllocPitch_v2, (U64 *, size_t *, size_t, size_t, U32), &address, &pitch, 1000, 5000, 4));
    tell("managed", CALL(cuMemAllocManaged, (U64 *, size_t, U32), &address, 5 << 20, 1));
    tell("array", CALL(cuArrayCreate_v2, (P *, void *), &array, &plane));
    tell("levels", CALL(cuMipmappedArrayCreate, (P *, void *, U32), &array, &deep, 3));
}

static void enter_primary(void) {
    P context = NULL;
    CALL(cuDevicePrimaryCtxRetain, (P *, int), &context, 0);
    CALL(cuCtxSetCurrent, (P), context);
}

/* What goes with a context, and what does not. */
static void contexts(void) {
    P context = NULL, primary = NULL, stream = NULL;
    U64 kept = 0, plain = 0, handle = 0;
    CALL(cuCtxGetCurrent, (P *), &primary);
    tell("before", CALL(cuMemAlloc_v2, (U64 *, size_t), &kept, 1 << 20));
    for (int round = 0; round < 6; round++) {
        CALL(cuCtxCreate_v2, (P *, U32, int), &context, 0, 0);
        tell("round", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 30 << 20));
        tell("destroy", CALL(cuCtxDestroy_v2, (P), context));
    }
    CALL(cuCtxCreate_v2, (P *, U32, int), &context, 0, 0);
    take_all();
    handle = physical(4 << 20);
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    tell("ordered", CALL(cuMemAllocAsync, (U64 *, size_t, P), &plain, 32 << 20, stream));
    tell("destroy", CALL(cuCtxDestroy_v2, (P), context));
    release("its handle", handle);
    CALL(cuMemFreeAsync, (U64, P), plain, NULL);
    tell("its pool", CALL(cuCtxSynchronize, (void), ));
    tell("not the primary", CALL(cuCtxDestroy_v2, (P), primary));
    tell("nothing", CALL(cuCtxDestroy_v2, (P), NULL));

    take_all();
    enter_primary();
    tell("release", CALL(cuDevicePrimaryCtxRelease_v2, (int), 0));
    int code = CALL(cuDevicePrimaryCtxRelease_v2, (int), 0);
    enter_primary();
    tell("last release", code);
    take_all();
    enter_primary();
    code = CALL(cuDevicePrimaryCtxReset_v2, (int), 0);
    enter_primary();
    tell("reset", code);
    tell("room", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 64 << 20));
    tell("free", CALL(cuMemFree_v2, (U64), plain));
    tell("no other device", CALL(cuDevicePrimaryCtxReset_v2, (int), 7));
}

/* Memory that is mapped into a sparse array. */
static void sparse(void) {
    struct { size_t width, height, depth; U32 format, channels, flags; } deep = {512, 512, 1, 1, 1, 0x40};
    struct properties properties = {1, 0, 1, 0, NULL, 1 << 16};
    struct {
        U32 kind;
        P array;
        U32 part_kind, part[9], operation, handle_kind;
        U64 handle, offset;
        U32 devices, flags, reserved[2];
    } info = {0, NULL, 0, {0}, 1, 0, 0, 0, 1, 0, {0}};
    P array = NULL;
    U64 handle = 0;
    tell("array", CALL(cuArray3DCreate_v2, (P *, void *), &array, &deep));
    tell("create", CALL(cuMemCreate, (U64 *, size_t, void *, U64), &handle, 16 << 20, &properties, 0));
    info.array = array;
    info.handle = handle;
    tell("map", CALL(cuMemMapArrayAsync, (P, U32, P), &info, 1, NULL));
    tell("map again", CALL(cuMemMapArrayAsync_ptsz, (P, U32, P), &info, 1, NULL));
    release("mapped still", handle);
    release("not there", handle + 1);
}

/* Memory that is given out, let go, and got again. */
static void exports(void) {
    size_t size = 16 << 20;
    U64 handle = physical(size), imported = 0, address = addresses(size);
    int descriptor = -1, other = -1;
    CALL(cuMemExportToShareableHandle, (P, U64, int, U64), &descriptor, handle, 1, 0);
    release("given out", handle);
    for (int round = 0; round < 2; round++) {
        tell("import", CALL(cuMemImportFromShareableHandle, (U64 *, P, int), &imported, (P)(intptr_t)descriptor, 1));
        map("map", address, size, imported);
        CALL(cuMemExportToShareableHandle, (P, U64, int, U64), &other, imported, 1, 0);
        release("mapped still", imported);
        release("not twice", imported);
        unmap("given out still", address, size);
        close(other);
        tell("closed the other", 0);
    }
    close(descriptor);
    tell("closed", 0);
    handle = physical(size);
    CALL(cuMemExportToShareableHandle, (P, U64, int, U64), &descriptor, handle, 1, 0);
    tell("import", CALL(cuMemImportFromShareableHandle, (U64 *, P, int), &imported, (P)(intptr_t)descriptor, 1));
    close(descriptor);
    release("imported still", handle);
    release("no more", imported);
    handle = physical(size);
    CALL(cuMemExportToShareableHandle, (P, U64, int, U64), &descriptor, handle, 1, 0);
    close(descriptor);
    release("closed before", handle);
}

int main(int count, char **arguments) {
    static const struct part all[] = {
        {"old", old},
        {"arrays", arrays},
        {"handles", handles},
        {"owner", owner},
        {"unmaps", unmaps},
        {"contexts", contexts},
        {"sparse", sparse},
        {"exports", exports},
        {NULL, NULL},
    };
    return do_part(count, arguments, all);
}
