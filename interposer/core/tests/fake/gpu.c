/* A program that uses the CUDA driver in ways that the demo program does not. Its first argument says which. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
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

static size_t left(void) {
    size_t free = 0, total = 0;
    CALL(cuMemGetInfo_v2, (size_t *, size_t *), &free, &total);
    return free;
}

static void tell(const char *what, int code) { printf("%s %d %zu\n", what, code, left()); }

/* A kernel that takes so long: in the stand-in driver a function is a duration. */
static int launch(P stream, U64 nanoseconds) {
    return CALL(cuLaunchKernel, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)nanoseconds, 1, 1, 1, 1, 1, 1,
                0, stream, NULL, NULL);
}

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

/* What is left on each of two devices. */
static void tell_both(const char *what, int code, P contexts[2]) {
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

struct pool {
    int kind, types, where, device;
    P security;
    size_t most;
    U64 rest[7];
};

/* Memory in stream order, whatever is current. */
static void pools(void) {
    P contexts[2], streams[2], pool = NULL;
    U64 address = 0, all[8];
    for (int i = 0; i < 2; i++) {
        CALL(cuDevicePrimaryCtxRetain, (P *, int), &contexts[i], i);
        CALL(cuCtxSetCurrent, (P), contexts[i]);
        CALL(cuStreamCreate, (P *, U32), &streams[i], 1);
    }
    CALL(cuCtxSetCurrent, (P), contexts[0]);
    tell_both("begin", 0, contexts);
    int code = CALL(cuMemAllocAsync, (U64 *, size_t, P), &all[0], 32 << 20, streams[1]);
    tell_both("the other's stream", code, contexts);
    code = CALL(cuMemAllocAsync, (U64 *, size_t, P), &all[1], 32 << 20, NULL);
    tell_both("no stream", code, contexts);
    CALL(cuCtxSetCurrent, (P), NULL);
    code = CALL(cuMemAllocAsync, (U64 *, size_t, P), &all[2], 32 << 20, streams[1]);
    tell_both("no context", code, contexts);
    CALL(cuCtxSetCurrent, (P), contexts[0]);
    CALL(cuDeviceGetDefaultMemPool, (P *, int), &pool, 1);
    code = CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &all[3], 32 << 20, pool, streams[0]);
    tell_both("the other's pool", code, contexts);
    struct pool properties = {1, 0, 1, 1, NULL, 0, {0}};
    code = CALL(cuMemPoolCreate, (P *, void *), &pool, &properties);
    code |= CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &all[4], 32 << 20, pool, streams[0]);
    tell_both("a pool there", code, contexts);
    code = CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &address, 128 << 20, pool, streams[0]);
    tell_both("too much", code, contexts);
    CALL(cuDeviceGetMemPool, (P *, int), &pool, 0);
    code = CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &all[5], 32 << 20, pool, streams[1]);
    tell_both("our own", code, contexts);
    properties.where = 2;
    code = CALL(cuMemPoolCreate, (P *, void *), &pool, &properties);
    code |= CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &address, 999 << 20, pool, streams[1]);
    tell_both("the host's", code, contexts);
    for (int i = 0; i < 6; i++) code |= CALL(cuMemFreeAsync, (U64, P), all[i], streams[0]);
    for (int i = 0; i < 2; i++) {
        CALL(cuCtxSetCurrent, (P), contexts[i]);
        CALL(cuCtxSynchronize, (void), );
    }
    tell_both("freed", code, contexts);
}

/* A graph of one allocation, captured or added, that frees it again or leaves it to the program, made ready. */
struct graph {
    P made, ready;
    U64 address;
};

struct node {
    int kind, reserved[3];
    struct pool pool;
    P access;
    size_t count, bytes;
    U64 address, rest[17];
};

static struct graph graph_of(const char *how, size_t bytes, int device, int frees) {
    struct graph graph = {NULL, NULL, 0};
    P stream = NULL, node = NULL;
    struct node wish = {10, {0}, {1, 0, 1, device, NULL, 0, {0}}, NULL, 0, bytes, 0, {0}};
    int code = 0;
    if (!strcmp(how, "captured")) {
        CALL(cuStreamCreate, (P *, U32), &stream, 1);
        code |= CALL(cuStreamBeginCapture_v2, (P, int), stream, 0);
        code |= CALL(cuMemAllocAsync, (U64 *, size_t, P), &graph.address, bytes, stream);
        if (frees) code |= CALL(cuMemFreeAsync, (U64, P), graph.address, stream);
        code |= CALL(cuStreamEndCapture, (P, P *), stream, &graph.made);
        CALL(cuStreamDestroy_v2, (P), stream);
    } else {
        code |= CALL(cuGraphCreate, (P *, U32), &graph.made, 0);
        if (!strcmp(how, "added"))
            code |= CALL(cuGraphAddMemAllocNode, (P *, P, P, size_t, P), &node, graph.made, NULL, 0, &wish.pool);
        else if (!strcmp(how, "of any type"))
            code |= CALL(cuGraphAddNode, (P *, P, P, size_t, P), &node, graph.made, NULL, 0, &wish);
        else
            code |= CALL(cuGraphAddNode_v2, (P *, P, P, P, size_t, P), &node, graph.made, NULL, NULL, 0, &wish);
        graph.address = wish.address;
        if (frees)
            code |= CALL(cuGraphAddMemFreeNode, (P *, P, P, size_t, U64), &node, graph.made, NULL, 0, graph.address);
    }
    code |= CALL(cuGraphInstantiateWithFlags, (P *, P, U64), &graph.ready, graph.made, 0);
    tell(how, code);
    return graph;
}

static void run(const char *what, struct graph graph) {
    tell(what, CALL(cuGraphLaunch, (P, P), graph.ready, NULL));
}

static void drop(struct graph graph) {
    int code = CALL(cuGraphExecDestroy, (P), graph.ready);
    tell("drop", code | CALL(cuGraphDestroy, (P), graph.made));
}

/* Memory that graphs take when they are launched, and not before. */
static void graphs(void) {
    static const char *const ways[] = {"captured", "added", "of any type", "with edges"};
    U64 plain = 0;
    for (int i = 0; i < 4; i++) {
        struct graph graph = graph_of(ways[i], 40 << 20, 0, 1);
        run("launch", graph);
        tell("beside it", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 30 << 20));
        run("again", graph);
        drop(graph);
        graph = graph_of(ways[i], 40 << 20, 0, 0);
        run("launch", graph);
        run("not freed", graph);
        tell("free", CALL(cuMemFreeAsync, (U64, P), graph.address, NULL));
        run("launch", graph);
        tell("free", CALL(cuMemFree_v2, (U64), graph.address));
        drop(graph);
        graph = graph_of(ways[i], 66 << 20, 0, 1);
        run("too much", graph);
        drop(graph);
    }
    struct graph one = graph_of("captured", 30 << 20, 0, 1), two = graph_of("added", 40 << 20, 0, 1);
    run("the first", one);
    run("the second has its place", two);
    run("and it again", one);
    tell("trim", CALL(cuDeviceGraphMemTrim, (int), 0));
    tell("plain", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 40 << 20));
    run("no place", one);
    tell("free", CALL(cuMemFree_v2, (U64), plain));
    tell("upload", CALL(cuGraphUpload, (P, P), one.ready, NULL));
    run("launch", one);
    run("the second", two);
    drop(two);
    tell("plain", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 40 << 20));
    tell("no place to upload", CALL(cuGraphUpload, (P, P), one.ready, NULL));
    drop(one);
    tell("free", CALL(cuMemFree_v2, (U64), plain));

    /* What is freed in a capture is not free. */
    P stream = NULL, graph = NULL;
    U64 more = 0;
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    tell("ordered", CALL(cuMemAllocAsync, (U64 *, size_t, P), &more, 32 << 20, stream));
    CALL(cuStreamBeginCapture_v2, (P, int), stream, 2);
    int code = CALL(cuMemFreeAsync, (U64, P), more, stream);
    CALL(cuStreamEndCapture, (P, P *), stream, &graph);
    tell("freed in a capture", code);
    CALL(cuGraphDestroy, (P), graph);
    code = CALL(cuMemFreeAsync, (U64, P), more, stream);
    CALL(cuCtxSynchronize, (void), );
    tell("freed", code);
}

/* What pools keep of what they gave. */
static void keeps(void) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    P pools[2], stream = NULL;
    U64 all = UINT64_MAX, one = 0, two = 0, three = 0;
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    for (int i = 0; i < 2; i++) {
        CALL(cuMemPoolCreate, (P *, void *), &pools[i], &properties);
        CALL(cuMemPoolSetAttribute, (P, int, P), pools[i], 4, &all);
    }
#define TAKE(what, to, size, pool) \
    tell(what, CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), to, (size_t)(size) << 20, pool, stream))
#define GIVE(what, address) tell(what, CALL(cuMemFreeAsync, (U64, P), address, stream))
    TAKE("100 of 128", &one, 100, pools[0]);
    GIVE("kept", one);
    tell("kept also when waited for", CALL(cuStreamSynchronize, (P), stream));
    TAKE("again", &one, 100, pools[0]);
    TAKE("20 of the rest", &two, 20, pools[0]);
    TAKE("20 more", &three, 20, pools[0]);
    GIVE("kept", one);
    TAKE("too much", &one, 2000, pools[0]);
    tell("trimmed for it", 0);
    GIVE("kept", two);
    GIVE("kept", three);
    tell("trim", CALL(cuMemPoolTrimTo, (P, size_t), pools[0], 0));
    TAKE("all but a piece", &one, 992, pools[0]);
    TAKE("the last piece", &two, 20, pools[0]);
    TAKE("of the last piece", &three, 10, pools[0]);
    GIVE("kept", one);
    GIVE("kept", two);
    GIVE("kept", three);
    TAKE("all", &one, 1024, pools[0]);
    TAKE("nothing for the other", &two, 1, pools[1]);
    GIVE("kept", one);
    tell("plain, trimmed for it", CALL(cuMemAlloc_v2, (U64 *, size_t), &one, 900 << 20));
    TAKE("64 of 64", &two, 64, pools[1]);
    tell("destroy", CALL(cuMemPoolDestroy, (P), pools[1]));
    TAKE("gone", &three, 1, pools[1]);
    GIVE("ends with its last block", two);
    tell("destroy", CALL(cuMemPoolDestroy, (P), pools[0]));
    tell("free", CALL(cuMemFree_v2, (U64), one));
    tell("from no pool", CALL(cuMemAllocAsync, (U64 *, size_t, P), &one, 1000, stream));
    tell("free", CALL(cuMemFree_v2, (U64), one));
    printf("waited %d\n", CALL(cuCtxSynchronize, (void), ));
}

static P everyones, many_pools[3];

/* Takes and gives back in no order; a thread's number says where it begins. */
static void *churn(void *number) {
    unsigned state = (unsigned)(intptr_t)number;
    U64 held[8] = {0};
    P stream = NULL;
    CALL(cuCtxSetCurrent, (P), everyones);
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    for (int round = 0; round < 400; round++) {
        state = state * 1103515245 + 12345;
        U64 *place = &held[state >> 16 & 7];
        size_t size = (1 + (state >> 20 & 31)) << 20;
        P pool = many_pools[(state >> 26) % 3];
        if (*place != 0) {
            CALL(cuMemFreeAsync, (U64, P), *place, stream);
            *place = 0;
        } else if (round % 16 == 15) {
            CALL(cuMemPoolTrimTo, (P, size_t), pool, 0);
        } else if (CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), place, size, pool, stream) != 0) {
            *place = 0;
        }
        if (round % 32 == 0) CALL(cuStreamSynchronize, (P), stream);
    }
    for (int i = 0; i < 8; i++) {
        if (held[i] != 0) CALL(cuMemFreeAsync, (U64, P), held[i], stream);
    }
    return NULL;
}

/* Pools of which many threads take at once. */
static void threads(void) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    pthread_t all[4];
    U64 threshold = 40 << 20;
    CALL(cuCtxGetCurrent, (P *), &everyones);
    for (int i = 0; i < 3; i++) {
        CALL(cuMemPoolCreate, (P *, void *), &many_pools[i], &properties);
        CALL(cuMemPoolSetAttribute, (P, int, P), many_pools[i], 4, &threshold);
    }
    for (int i = 0; i < 4; i++) pthread_create(&all[i], NULL, churn, (P)(intptr_t)(i + 1));
    for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
    for (int i = 0; i < 3; i++) CALL(cuMemPoolTrimTo, (P, size_t), many_pools[i], 0);
    tell("threads", 0);
    for (int i = 0; i < 3; i++) CALL(cuMemPoolDestroy, (P), many_pools[i]);
}

/* Graphs of another device than the current one. */
static void graphs_there(void) {
    P contexts[2], before = NULL;
    CALL(cuCtxGetCurrent, (P *), &before);
    for (int i = 0; i < 2; i++) CALL(cuDevicePrimaryCtxRetain, (P *, int), &contexts[i], i);
    struct graph graph = graph_of("added", 64 << 20, 1, 0);
    tell_both("ready", 0, contexts);
    int code = CALL(cuGraphLaunch, (P, P), graph.ready, NULL);
    tell_both("launched", code, contexts);
    code = CALL(cuMemFree_v2, (U64), graph.address);
    tell_both("freed", code, contexts);
    drop(graph);
    graph = graph_of("added", 256 << 20, 1, 0);
    code = CALL(cuGraphLaunch, (P, P), graph.ready, NULL);
    tell_both("too much", code, contexts);
    drop(graph);
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

/* A capture in the strictest mode beside work that our helper thread looks after. */
static void capture(void) {
    P busy = NULL, other = NULL, graph = NULL;
    CALL(cuStreamCreate, (P *, U32), &busy, 1);
    CALL(cuStreamCreate, (P *, U32), &other, 1);
    int codes[4] = {0};
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 5; i++) codes[0] |= launch(busy, 1000000);
        codes[1] |= CALL(cuStreamBeginCapture_v2, (P, int), other, 0);
        for (int i = 0; i < 100; i++) codes[0] |= launch(other, 1000000);
        usleep(10000);
        codes[2] |= CALL(cuStreamEndCapture, (P, P *), other, &graph);
        codes[3] |= CALL(cuGraphDestroy, (P), graph);
    }
    codes[0] |= CALL(cuStreamSynchronize, (P), busy);
    printf("capture %d %d %d %d\n", codes[0], codes[1], codes[2], codes[3]);
}

/* Streams and contexts that end while work of theirs is queued, and new ones after them. */
static void endings(void) {
    int codes[4] = {0};
    for (int round = 0; round < 30; round++) {
        P context = NULL, stream = NULL;
        codes[0] |= CALL(cuCtxCreate_v2, (P *, U32, int), &context, 0, 0);
        codes[1] |= CALL(cuStreamCreate, (P *, U32), &stream, 1);
        for (int i = 0; i < 3; i++) codes[2] |= launch(i % 2 ? NULL : stream, 1000000);
        if (round % 3 == 0) codes[1] |= CALL(cuStreamDestroy_v2, (P), stream);
        if (round % 3 == 1) usleep(3000);
        codes[3] |= CALL(cuCtxDestroy_v2, (P), context);
    }
    printf("endings %d %d %d %d\n", codes[0], codes[1], codes[2], codes[3]);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* Busy on the calling thread's default stream, which no other thread can put anything into. */
static void own(void) {
    double begin = now(), took = 0;
    int launched = 0, code = 0;
    while (took < 4) {
        for (int i = 0; i < 8; i++, launched++) {
            code |= CALL(cuLaunchKernel_ptsz, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)2000000, 1, 1, 1,
                         1, 1, 1, 0, NULL, NULL, NULL);
        }
        code |= CALL(cuStreamSynchronize_ptsz, (P), NULL);
        took = now() - begin;
    }
    printf("own code=%d share=%.1f\n", code, launched * 0.2 / took);
}

int main(int count, char **arguments) {
    P context = NULL;
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || count < 2) return 2;
    CALL(cuInit, (U32), 0);
    CALL(cuDevicePrimaryCtxRetain, (P *, int), &context, 0);
    CALL(cuCtxSetCurrent, (P), context);
    static const struct { const char *name; void (*run)(void); } all[] = {
        {"old", old}, {"arrays", arrays}, {"handles", handles}, {"owner", owner}, {"unmaps", unmaps}, {"contexts", contexts}, {"pools", pools}, {"keeps", keeps}, {"threads", threads}, {"sparse", sparse}, {"exports", exports},
        {"graphs", graphs}, {"graphs there", graphs_there}, {"capture", capture}, {"endings", endings}, {"own", own},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!strcmp(all[i].name, arguments[1])) {
            all[i].run();
            return 0;
        }
    }
    return 2;
}
